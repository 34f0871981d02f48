// Shows tips at once and under a finger too. Without script the browser's own tooltips remain.
(() => {
  const tip = document.getElementById("tip");
  for (const title of document.querySelectorAll("svg title")) {
    const of = title.parentElement;
    of.dataset.tip = title.textContent;
    of.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  for (const of of document.querySelectorAll("[title]")) {
    of.dataset.tip = of.title;
    of.setAttribute("aria-label", `${of.textContent}: ${of.title}`);
    of.removeAttribute("title");
  }
  const show = event => {
    const of = event.target.closest?.("[data-tip]");
    tip.hidden = !of;
    if (!of) return;
    tip.textContent = of.dataset.tip;
    const {width, height} = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  };
  addEventListener("pointermove", show);
  addEventListener("pointerdown", show);
  addEventListener("scroll", () => { tip.hidden = true; }, true);
})();
