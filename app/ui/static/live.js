// A running response as it is made: text is put in as text, never as HTML, and the finished turn replaces it.
"use strict";

(() => {
  const followed = new WeakSet();

  function element(name, className, text) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text || "";
    return made;
  }

  function follow(place) {
    if (followed.has(place)) return;
    followed.add(place);
    const note = document.getElementById("live-note");
    const items = new Map();
    const source = new EventSource(place.dataset.events);

    function open(at, heading) {
      if (items.has(at)) return items.get(at);
      const item = element("article", `entry ${heading.kind} ${heading.role}`);
      const head = element("h3", "label", heading.title);
      if (heading.name) head.append(" ", element("code", "", heading.name));
      const body = element("div", "body");
      item.append(head, body);
      place.append(item);
      items.set(at, { body, parts: new Map() });
      return items.get(at);
    }

    function part(at, number, kind) {
      const { body, parts } = open(at, { kind: "message", role: "", title: "Output" });
      if (!parts.has(number)) {
        const made = element(kind === "code" ? "pre" : "div", "plain");
        body.append(made);
        parts.set(number, made);
      }
      return parts.get(number);
    }

    const does = {
      status({ status }) {
        const chip = document.querySelector("#response [data-chip]");
        chip.className = `chip ${status}`;
        chip.textContent = status.replaceAll("_", " ");
      },
      open(told) {
        open(told.at, told);
      },
      say({ at, part: number, kind, text }) {
        const isAtEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 80;
        part(at, number, kind).append(text);
        note.textContent = "Being generated";
        if (isAtEnd) scrollTo(scrollX, document.documentElement.scrollHeight);
      },
    };

    source.onmessage = (event) => {
      const told = JSON.parse(event.data);
      does[told.do](told);
    };
    source.addEventListener("end", () => {
      source.close();
      htmx.ajax("GET", place.dataset.turn, { target: "#response", swap: "outerHTML" });
    });
    source.onerror = () => {
      // While it is only cut off the browser comes back by itself, and says what it has seen.
      if (source.readyState === EventSource.CLOSED) note.textContent = "This page no longer follows. Reload it to see how it went on.";
    };
    window.addEventListener("pagehide", () => source.close(), { once: true });
  }

  function look() {
    for (const place of document.querySelectorAll("[data-events]")) follow(place);
  }

  document.addEventListener("DOMContentLoaded", look);
  document.addEventListener("htmx:load", look);
})();
