"""The report page's style sheet: light and dark, from 400 pixels on."""

STYLE = """
:root{--bg:#fff;--fg:#1a1a1a;--mute:#666;--line:#ddd;--ok:#e6f2ea;--noted:#fdf0c4;--drift:#f6b48a;--severe:#e56b67;
--und:#eee;--bar:#7aa6d8;--ref:#1a1a1a;--re:#0a7d3c;--fo:#9a3fb0;--pr:#b45f06;--pf:#777;--sh:#b0263a}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e8e8e8;--mute:#a0a0a0;--line:#383c42;--ok:#1f3a2a;
--noted:#5a4a10;--drift:#8a4a1e;--severe:#a02c28;--und:#2a2d32;--bar:#4a78ac;--ref:#f0f0f0;--re:#4ed08a;--fo:#d79be6;--pr:#f0a860;--pf:#aaa;--sh:#f08090}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;
max-width:1240px;margin:0 auto;padding:16px}
h1{font-size:1.35rem;line-height:1.3}h2{font-size:1.05rem;margin-top:2rem}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:3px 7px;border:1px solid var(--line);text-align:left}
.scroll{overflow-x:auto}.heat td{text-align:right;padding:2px 4px;min-width:26px}
.heat th:first-child{position:sticky;left:0;background:var(--bg)}
.heat tr:first-child th span{writing-mode:vertical-rl;font-weight:400}.heat .since{text-align:left}
.ok{background:var(--ok)}.noted{background:var(--noted)}.drift{background:var(--drift)}.severe{background:var(--severe)}
.und{background:var(--und);color:var(--mute)}.err{background:#000;color:#fff}.key{padding:2px 8px;border-radius:3px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:14px}figure{margin:0}
figcaption,small{font-size:12px;color:var(--mute)}figcaption b{color:var(--fg)}svg{width:100%;height:auto;display:block}
rect{fill:var(--bar)}.plot{min-width:640px}.plot text{font-size:11px;fill:var(--mute);text-anchor:middle}
.plot .axis{stroke:var(--line)}.plot text.axis{stroke:none;text-anchor:end}.plot .interval{stroke:var(--ref)}
.plot .event,.known{stroke:var(--severe);stroke-dasharray:3 3}.known{border-bottom:3px solid var(--severe)}
polyline{fill:none;stroke:var(--ref);stroke-width:1.2}polyline.model{stroke-width:2.6}
polyline.retrained{stroke:var(--re);stroke-width:2}polyline.follow{stroke:var(--fo)}
polyline.pop_rolling{stroke:var(--pr);stroke-dasharray:2 3;stroke-width:1.6}
polyline.pop_frozen{stroke:var(--pf);stroke-dasharray:7 4}polyline.shuffled{stroke:var(--sh);stroke-width:.9}
.line{border-left:14px solid var(--ref);white-space:nowrap}.line.retrained{border-color:var(--re)}
.line.follow{border-color:var(--fo)}.line.pop_rolling{border-color:var(--pr)}
.line.pop_frozen{border-color:var(--pf)}.line.shuffled{border-color:var(--sh)}
rect.within{fill:var(--sh)}.swatch{border-left:14px solid var(--bar)}.swatch.within{border-color:var(--sh)}
.key{display:inline-block;margin:2px 0}summary{cursor:pointer;margin:8px 0}
"""
