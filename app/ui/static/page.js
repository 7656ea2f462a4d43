// Times in the reader's own zone, and buttons that copy. The page reads without this, too.
"use strict";

(() => {
  const minute = { hour: "2-digit", minute: "2-digit" };
  const forms = [{ ...minute, second: "2-digit" }, { day: "numeric", month: "short", ...minute }, { dateStyle: "medium", timeStyle: "short" }];
  const [today, year, ever] = forms.map((form) => new Intl.DateTimeFormat(undefined, form));

  function say(at) {
    const now = new Date();
    if (at.toDateString() === now.toDateString()) return today.format(at);
    return (at.getFullYear() === now.getFullYear() ? year : ever).format(at);
  }

  function sayTimes(root) {
    for (const time of root.querySelectorAll("time:not([title])")) {
      const at = new Date(time.dateTime);
      time.title = time.textContent;
      time.textContent = say(at);
    }
  }

  function offerCopies(root) {
    if (!navigator.clipboard) return;
    for (const button of root.querySelectorAll("button[data-copy][hidden]")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.closest("figure").querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
    }
  }

  // What was left empty does not clutter the address.
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-tidy]")) return;
    for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
  });
  window.addEventListener("pageshow", () => {
    for (const field of document.querySelectorAll("form[data-tidy] :disabled")) field.disabled = false;
  });

  function greet(root) {
    sayTimes(root);
    offerCopies(root);
  }

  document.addEventListener("DOMContentLoaded", () => greet(document));
  document.addEventListener("htmx:load", (event) => greet(event.target.parentNode || document));
})();
