"""Removes each guard in a copy of the project and checks that its test then fails.

    python -m tools.guards [WORDS OF A TEST'S NAME]

A test that passes without its guard would prove nothing. Prints a line a guard; exit code 1 if a test passed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


TROUBLE = "The current node timed out during startup"
"""A test that ends with this has shown nothing."""


class Guard(NamedTuple):
    """A guard and how it is removed."""

    test: str
    """File and words that choose the test, as `pytest FILE -k WORDS`."""
    file: str
    text: str
    """Must be in the file once."""
    without: str = ""


R, C, D, H, N, S, F = (
    f"test_{name}.py" for name in ("resume", "checkpoints", "data", "hostile", "numbers", "secrets", "fuzz")
)
LOOP, STEP, RESUME, SAVE, RUNS = (
    "ss4rec/train/loop.py",
    "ss4rec/train/step.py",
    "ss4rec/train/resume.py",
    "ss4rec/runs/checkpoint.py",
    "ss4rec/runs/folder.py",
)
BACKEND, RECOVERY = "ss4rec/train/ray_train.py", "ss4rec/train/ray_recovery.py"
ZIP, SHARDS, MANIFEST, FOLDER = (
    "ss4rec/data/sources/archive.py",
    "ss4rec/data/prepared/tables.py",
    "ss4rec/data/prepared/manifest.py",
    "ss4rec/data/prepared/folder.py",
)
GUARDS = (
    Guard("test_signals.py::preparing_leaves", "ss4rec/data/prepare/work_folder.py", "        except KeyboardInterrupt:\n            if not keep:\n", "        except KeyboardInterrupt:\n            if keep:\n"),
    Guard("../recommend/test_job.py::trained_on", "ss4rec/recommendations/parts.py", "if chosen.model_sha256 != work.weights_sha256:", "if not chosen.model_sha256:"),
    Guard("../recommend/test_job.py::killed_job", "ss4rec/recommendations/job.py", "            remove_drafts(work.result)\n"),
    Guard("../recommend/test_job.py::killed_job", "ss4rec/data/prepare/work_folder.py", "if keep_other and not again and not overwrite", "if not keep_other and not again and not overwrite"),
    Guard("../recommend/test_job.py::object_store", "ss4rec/recommendations/job.py", "work.publishing(keep=True)", "work.publishing()"),
    Guard(f"{R}::same_seed", "ss4rec/train/fresh.py", "    seed_step(config.train.seed, 0, 0)  # the same first weights on all workers\n"),
    Guard(f"{R}::stop_anywhere and middle", LOOP, "        seed_step(self.config.train.seed, self.global_step, self.workers.rank)\n"),
    Guard(f"{R}::stop_anywhere and middle", RESUME, '"state": entries}', '"state": {}}'),
    Guard(f"{R}::stop_anywhere and middle", RESUME, "        load_tensors(train_step.model, raw, saved.path)\n"),
    Guard(f"{R}::stop_anywhere and last", RESUME, ", dtype=torch.float64))", "))"),
    Guard(f"{R}::patience", LOOP, "EarlyStopping.restore(state.stopping.model_dump(), ", "EarlyStopping("),
    Guard(f"{R}::share_the_order and 2", "ss4rec/data/batches/epoch_order.py", "1 + group.index)", "1 + group.index + rank)"),
    Guard(f"{R}::fewer_workers", STEP, "        self.workers.sum_(self.gradients.flat)\n", "        self.gradients.flat /= self.gradients.totals[1].clone()\n        self.workers.sum_(self.gradients.flat)\n"),
    Guard(f"{C}::test_damaged_checkpoint and flip and model", SAVE, "if found != sums[file]:", "if False:"),
    Guard(f"{C}::damaged_best", SAVE, "    for problem in damaged:\n", "    for problem in ():\n"),
    Guard(f"{C}::every_checkpoint", RESUME, "    if problems:\n", "    if False:\n"),
    Guard(f"{C}::killed_while_saving and flush", SAVE, '_DRAFT, _ASIDE = ".writing-"', '_DRAFT, _ASIDE = "step-9"'),
    Guard(f"{C}::between_the_two", SAVE, "            aside.rename(final)\n", "            pass\n"),
    Guard(f"{C}::folder_missing", RESUME, "if rows := folder.metrics():", "if rows := []:"),
    Guard(f"{C}::other_versions", "ss4rec/train/worker.py", "        _say_versions(folder, record)\n"),
    Guard(f"{C}::cannot_be_written", "ss4rec/cluster/storage_check.py", "    except OSError as error:\n        raise ResourceError(\n            f\"storage {path} cannot", "    except KeyError as error:\n        raise ResourceError(\n            f\"storage {path} cannot"),
    Guard(f"{C}::disk_too_small", SAVE, "            _require_space(folder, needed_bytes)\n"),
    Guard(f"{C}::disk_full and 1", SAVE, "SAVE_ATTEMPTS, PAUSE_S = 3,", "SAVE_ATTEMPTS, PAUSE_S = 1,"),
    Guard(f"{C}::second_writer", "ss4rec/runs/lease.py", "    _wait_for_death(path, expires_s, say)\n"),
    Guard(f"{C}::killed_process", "ss4rec/runs/lease.py", "if _born(holder.pid) != holder.born:", "if _born(holder.pid) is None:"),
    Guard(f"{C}::another_machine and True", "ss4rec/runs/lease.py", "first_seen is not None and touched != first_seen", "False"),
    Guard(f"{C}::given_up_for_lost", SAVE, "            allowed()\n"),
    Guard(f"{C}::stranger and belongs", LOOP, "LoopState.of(saved, epochs=planned_epochs(train), steps_per_epoch=self.steps_per_epoch)", "LoopState.model_validate(saved.state)"),
    Guard(f"{C}::absurd_shapes", "ss4rec/runs/load.py", "    _require_size(saved, config, record)\n"),
    Guard(f"{D}::damaged_shard and flip", "ss4rec/train/run.py", "        data.verify()\n", "        pass\n"),
    Guard(f"{D}::bad_row and -5", "ss4rec/data/sources/checks.py", "(times_R < rules.earliest_s,", "(times_R < -(10**18),"),
    Guard(f"{D}::set_aside", "ss4rec/data/sources/checks.py", "if quarantine.num_rows <= rules.max_bad_share * rows:", "if True:"),
    Guard(f"{D}::out_of_order", "ss4rec/data/prepare/block.py", "sorted_places(users_R, times_R)", "np.lexsort((users_R,))"),
    Guard(f"{D}::fewer_windows", "ss4rec/data/batches/source.py", "        self.order.check_world(world)\n"),
    Guard(f"{D}::all_processors", "ss4rec/cluster/placement.py", "if ray_data and not resources.elastic and left + 1e-9 < resources.data_cpus:", "if False:"),
    Guard(f"{H}::zip_that_climbs", ZIP, 'if member.is_absolute() or ".." in member.parts:', "if False:"),
    Guard(f"{H}::zip_with_a_link", ZIP, "if stat.S_ISLNK(info.external_attr >> 16):", "if False:"),
    Guard(f"{H}::zip_bomb and not lies", ZIP, "        refuse_bomb(self.where(name), info.compress_size, info.file_size)\n"),
    Guard(f"{H}::encrypted", ZIP, "except (RuntimeError, zipfile", "except (zipfile"),
    Guard(f"{H}::link_out_of", ZIP, "_inside(path, name).open", "(path / name).open"),
    Guard(f"{H}::link_in_a_prepared", FOLDER, "if isinstance(path, Path) and (", "if False and ("),
    Guard(f"{H}::absurd_manifest", MANIFEST, "        manifest._check_sums(path)\n"),
    Guard(f"{H}::absurd_manifest", MANIFEST, r'Field(pattern=r"^shards/part-\d{5,9}\.parquet$")', "Field()"),
    Guard(f"{H}::pipe_in_place", "ss4rec/io/untrusted.py", "not path.is_file()", "False"),
    Guard(f"{H}::million_levels and lists", "ss4rec/io/untrusted.py", "except RecursionError:", "except KeyError:"),
    Guard(f"{H}::gigabyte", "ss4rec/io/untrusted.py", "path.stat().st_size > MAX_JSON_BYTES", "False"),
    Guard(f"{H}::absurd_values", SHARDS, "    _check_events(path, table, num_items)\n"),
    Guard(f"{H}::users_table", FOLDER, "        _check_users(self, users)\n"),
    Guard(f"{H}::parquet_bomb", SHARDS, "            refuse_bomb(str(path), path.stat().st_size, unpacked_bytes(file.metadata))\n"),
    Guard(f"{H}::pickled_objects", SHARDS, "            _check_schema(path, file.schema_arrow, expected(file.schema_arrow))\n"),
    Guard(f"{H}::torch_pickle", SAVE, "        return load_file(path, device=device)\n", "        import torch\n\n        return torch.load(path.open('rb'), weights_only=False)\n"),
    Guard(f"{N}::before_the_update and loss and nan", LOOP, "        if first is None:\n            return\n", "        return\n"),
    Guard(f"{N}::before_the_update and gradient", "ss4rec/train/optim.py", "found_inf.copy_(bad | (self.first >= 0))", "found_inf.zero_()"),
    Guard(f"{N}::skips_only", STEP, "torch.where(self.guard.last_bad, 0.0, totals)", "totals"),
    Guard(f"{N}::survives_a_restart", RESUME, "    train_step.guard.count.fill_(state.bad_steps)\n"),
    Guard(f"{N}::leader_alone", LOOP, "        if self.guard.first_bad_step is not None:\n            return ", "        if False:\n            return "),
    Guard(f"{N}::exploding", "ss4rec/train/optim.py", "bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))", "bad = torch.zeros((), dtype=torch.bool)"),
    Guard(f"{N}::hanging", LOOP, "        self.watchdog.feed()\n        seed_step", "        seed_step"),
    Guard(f"{N}::notice", LOOP, "(reason := self.hooks.notice())", '(reason := "")'),
    Guard(f"{N}::metrics_hold", RUNS, "isinstance(value, float) and not math.isfinite(value)", "False"),
    Guard(f"{S}::reach_no_file", "ss4rec/runs/record.py", "            commit=git_commit(),\n", '            commit=os.environ["WANDB_API_KEY"],\n'),
    Guard(f"{S}::blotted", "ss4rec/cli/__init__.py", 'redact(f"error: {error}")', 'f"error: {error}"'),
    Guard(f"{S}::leaves_the_rest", "ss4rec/cluster/secrets.py", "_LEAST = 6", "_LEAST = 0"),
    Guard(f"{S}::process_list", "ss4rec/cli/submit.py", "if equals and is_secret(name):", "if False:"),
    Guard("test_secrets_job.py::stay_out", "ss4rec/cluster/submit.py", "for name, value in env.items() if is_secret(name)}", "for name, value in env.items() if False}"),
    Guard("test_secrets_job.py::stay_out", "ss4rec/cluster/submit.py", '        runtime_env["worker_process_setup_hook"] = HOOK\n', ""),
    Guard(f"{S}::does_not_answer", "ss4rec/train/trackers/weights_biases.py", "except wandb.errors.Error as error:", "except KeyError as error:"),
    Guard(f"{S}::goes_away", "ss4rec/train/tracking.py", "            tell()\n        except Exception as error:", "            tell()\n        except KeyError as error:"),
    Guard(f"{S}::no_wandb", "ss4rec/train/trackers/weights_biases.py", "        raise UsageError(\n            f\"wandb is", "        return None\n        raise UsageError(\n            f\"wandb is"),
    Guard(f"{F}::test_checkpoints", SAVE, "except (SafetensorError, OSError, ValueError, KeyError, TypeError) as", "except KeyError as"),
    Guard(f"{F}::json_files", MANIFEST, "        except ValidationError as error:\n", "        except KeyError as error:\n"),
    Guard(f"{F}::test_parquet", SHARDS, "    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:\n", "    except KeyError as error:\n"),
    Guard(f"{H}::no_pickle", SAVE, "        return load_file(path, device=device)\n", "        return torch.load(path)\n"),
    Guard(f"{N}::stop_together", LOOP, "enumerate(self.workers.gather(mine))", "enumerate([mine])"),
    Guard(f"{D}::left_out_when_asked", "ss4rec/data/salvage.py", "| dropped | {DROPPED: sum(s.events for s in damage.shards)}", "| dropped"),
    Guard(f"{D}::left_out_when_asked", "ss4rec/data/salvage.py", "    if out.exists():\n", "    shutil = __import__('shutil')\n    shutil.rmtree(out, ignore_errors=True)\n    if False:\n"),
    Guard(f"{D}::cannot_be_left_out and items", "ss4rec/data/salvage.py", "                raise\n", "                continue\n"),
    Guard(f"{D}::cannot_be_left_out and shards", "ss4rec/data/salvage.py", "    if not kept:\n", "    if False:\n"),
    Guard("test_ray_faults.py::killed_worker", BACKEND, "FailureConfig(max_failures=most)", "FailureConfig(max_failures=0)"),
    Guard("test_ray_faults.py::killed_controller", RECOVERY, "                ray_private.remove_placement_groups_of(error.actor_id)\n", "                pass\n"),
    Guard("test_failures.py::within_the_budget", RECOVERY, "            if again:\n", "            if False:\n"),
    Guard("test_failures.py::too_often", RECOVERY, "    if 0 <= most < failures:\n", "    if failures > 8:\n"),
    Guard("test_failures.py::cannot_be_made", RECOVERY, "            if not error.actor_init_failed:\n", "            if True:\n"),
    Guard("test_failures.py::of_a_users_error", RECOVERY, "            if failure.exists():  # it says", "            if False:  # it says"),
    Guard("test_failures.py::time_to_recover", RECOVERY, "    if not mark.exists():  # or", "    if True:  # or"),
    Guard("test_failures.py::time_to_recover", LOOP, " and self.global_step == begun_at + 1:", " and self.global_step > begun_at + 1:"),
    Guard("test_ray_faults.py::killed_worker", LOOP, "        self._resume()\n        self.began", "        self.began"),
    Guard("test_ray_faults.py::lost_node", LOOP, "now\")\n            return True\n", "now\")\n            return False\n"),
    Guard("test_driver_killed.py::the_driver", "ss4rec/runs/lease.py", "if _born(holder.pid) != holder.born:", "if False:"),
    Guard("test_driver_killed.py::the_head", LOOP, "        self._resume()\n        self.began", "        self.began"),
    Guard("test_other_workers.py::two_workers", BACKEND, "num_workers=(placement.workers, most) if most else placement.workers", "num_workers=placement.workers"),
    Guard("test_other_workers.py::two_workers", STEP, "        self.workers.sum_(self.gradients.flat)\n", "        self.gradients.flat /= self.gradients.totals[1].clone()\n        self.workers.sum_(self.gradients.flat)\n"),
    Guard("test_ray_faults.py::one_line", RECOVERY, "(not isinstance(item[1], RayActorError), item[0])", "item[0]"),
    Guard("test_ray_faults.py::users_error", "ss4rec/errors.py", "BUGS = (TypeError, ValueError,", "BUGS = (TypeError,"),
)  # fmt: skip


def text_problems(guards: Sequence[Guard]) -> list[str]:
    """Return one sentence for each guard whose text is not in its file exactly once, or whose test file is gone."""
    problems = []
    for guard in guards:
        path = ROOT / guard.file
        found = path.read_text().count(guard.text) if path.is_file() else 0
        if found != 1:
            problems.append(
                f"{guard.file} has this text {found} times, not once ({guard.test}): {guard.text!r}"
            )
    return problems


def fails_without(guard: Guard, copy: Path, tests: str = "tests/faults") -> str:
    """Return how the guard's test fails when it is removed, empty if it passes; the copy is whole again afterwards."""
    path = copy / guard.file
    text = path.read_text()
    file, _, words = guard.test.partition("::")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        f"{tests}/{file}",
        "-k",
        words,
        "--timeout=120",
    ]
    patience_s = 900 if "mark.ray" in (copy / tests / file).read_text() else 300
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        path.write_text(text.replace(guard.text, guard.without))
        code, told = in_a_group_of_its_own(command, copy, environment, patience_s)
    except subprocess.TimeoutExpired:
        return "it hangs"
    finally:
        path.write_text(text)
    if code != 1:  # 0: they pass; 4 and 5: usage, no such test
        return ""
    if TROUBLE in told:
        raise RuntimeError(f"the machine is too busy to start Ray for {guard.test}; run this again later")
    lines = [line[1:].strip() for line in told.splitlines() if line.startswith("E  ")]
    return lines[0][:90] if lines else "it ends otherwise"


def in_a_group_of_its_own(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], patience_s: float
) -> tuple[int, str]:
    """Return a command's exit code and output; what it leaves running, as a test that hangs does, is killed."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=patience_s)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, told


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Return what is not copied: what tools leave behind anywhere, and what users make at the root alone."""
    everywhere = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".hypothesis", "*.egg-info")
    found = set(everywhere(folder, names))
    # `ss4rec/runs` is code.
    return found | (
        set(shutil.ignore_patterns("runs", "data.*")(folder, names)) if Path(folder) == ROOT else set()
    )


def check(guards: Sequence[Guard], words: list[str], tests: str) -> int:
    """Check every guard whose test's name holds one of `words`; all without any. `tests`: folder of their files."""
    passed = []
    if problems := text_problems(guards):
        raise ValueError("\n".join(problems))
    chosen = [guard for guard in guards if not words or any(word in guard.test for word in words)]
    with tempfile.TemporaryDirectory(prefix="ss4rec-guards-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=_left_out)
        for guard in chosen:
            how = fails_without(guard, copy, tests)
            print(f"{'fails' if how else 'PASSES WITHOUT'}  {guard.test}  ({guard.file})  {how}", flush=True)
            if not how:
                passed.append(guard)
    print(f"{len(chosen) - len(passed)} of {len(chosen)} tests fail without their guard")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(check(GUARDS, sys.argv[1:], "tests/faults"))
