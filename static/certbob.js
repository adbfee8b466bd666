// Comfort only: every page works without this file. All words come from the page.
(() => {
  "use strict";
  const BUSY_MS = 5000;
  let quiet;

  function say(text) {
    const status = document.getElementById("status");
    status.textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => { status.textContent = ""; }, BUSY_MS);
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      say(button.dataset.copied);
    } catch {
      getSelection().selectAllChildren(source);
      say(button.dataset.select);
    }
  }

  // Shows what needs scripts, and starts a fresh grant's download. Starting it before `load`, or in the
  // same task, would keep the page loading for ever.
  function begin() {
    for (const button of document.querySelectorAll("[data-copy], [data-print]")) button.hidden = false;
    const form = document.querySelector("form[data-autostart]");
    if (!form) return;
    form.removeAttribute("data-autostart");
    history.replaceState(history.state, "", form.action);
    setTimeout(() => form.requestSubmit());
  }

  // What is typed while the fields around it are fetched anew is not to be lost with the old ones.
  let typed;
  addEventListener("input", (event) => { if (event.target.id === "device") typed = event.target.value; });
  document.addEventListener("htmx:beforeRequest", () => { typed = undefined; });
  document.addEventListener("htmx:afterSwap", () => {
    const device = document.getElementById("device");
    if (device && typed !== undefined) device.value = typed;
  });

  addEventListener("load", begin);
  document.addEventListener("htmx:afterSettle", begin);

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-print]");
    if (button) "print" in button.dataset ? print() : copy(button);
  });

  // Busy, not `disabled`: a disabled button would lose the keyboard's focus.
  document.addEventListener("submit", (event) => {
    const { once } = event.target.dataset;
    if (!once) return;
    const button = event.target.querySelector("button");
    if (button.ariaDisabled) return event.preventDefault();
    button.ariaDisabled = "true";
    setTimeout(() => { button.ariaDisabled = null; }, BUSY_MS);
    say(once);
  });

  // A page kept by the browser may show a passphrase that is over.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
})();
