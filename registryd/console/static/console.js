// A page asks for itself again every few seconds and takes over what changed. Without this script nothing is missing but that.
"use strict";
(() => {
  const seconds = Number(document.body.dataset.refresh);
  const stale = document.getElementById("stale");
  const pause = document.getElementById("pause");
  if (!seconds || !pause) return;
  let isPaused = false, isAsking = false;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Go on refreshing" : "Pause refreshing";
    stale.textContent = isPaused ? "Paused." : "";
  });

  // Whoever selects text, or writes into a field, is not disturbed.
  const isBusy = view => {
    const selection = document.getSelection();
    const at = document.activeElement;
    return (selection && !selection.isCollapsed && view.contains(selection.anchorNode)) ||
      (view.contains(at) && /^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName));
  };

  // Where the focus is, as a path of child numbers: the new content has an element in the same place.
  const pathTo = (view, element) => {
    const path = [];
    for (let at = element; at !== view; at = at.parentElement) path.unshift(Array.prototype.indexOf.call(at.parentElement.children, at));
    return path;
  };

  const look = async () => {
    const view = document.getElementById("view");
    if (isPaused || isAsking || document.hidden || isBusy(view)) return;
    isAsking = true; // one at a time: a slow database is not asked more and more, and what a person clicks finds a free connection
    try {
      const answer = await fetch(location.href, {headers: {"x-console-refresh": "1"}, redirect: "error"});
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("view");
      if (isPaused || isBusy(view)) return;
      const focused = view.contains(document.activeElement) ? pathTo(view, document.activeElement) : null;
      const opened = [...view.querySelectorAll("details")].map(each => each.open);
      const scrolled = [...view.querySelectorAll(".box")].map(each => each.scrollLeft);
      view.replaceWith(document.adoptNode(fresh));
      fresh.querySelectorAll("details").forEach((each, index) => { each.open = opened[index] ?? each.open; });
      fresh.querySelectorAll(".box").forEach((each, index) => { each.scrollLeft = scrolled[index] ?? 0; });
      if (focused) focused.reduce((at, index) => at && at.children[index], fresh)?.focus({preventScroll: true});
      stale.textContent = "";
    } catch {
      stale.textContent = "No answer: what you see is old.";
    } finally {
      isAsking = false;
    }
  };
  setInterval(look, 1000 * seconds);
})();
