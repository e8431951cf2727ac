"use strict";
// Opens messages without a reload, and looks every 2 seconds whether there are new ones. The page works without it.
(() => {
  const POLL_MS = 2000;
  const list = document.getElementById("list");
  const view = document.getElementById("view");
  const live = document.getElementById("live");
  const parse = (html) => new DOMParser().parseFromString(html, "text/html");
  const listing = () => list.querySelector(".listing");
  const rows = () => [...list.querySelectorAll(".row")];
  const fetchText = async (address) => (await fetch(address, { headers: { Accept: "text/html" } })).text();

  function mark(n) {
    for (const row of rows()) {
      if (row.parentElement.dataset.n === n) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  let showing = 0;
  async function show(address, { push = true, focus = false } = {}) {
    const query = new URL(address, location.href).searchParams;
    const turn = ++showing;
    const n = query.get("m");
    if (n) {
      const html = await fetchText(`/inbox/view/${encodeURIComponent(n)}?${query}`);
      if (turn !== showing) return;
      view.innerHTML = html;
      view.scrollTop = 0;
    }
    document.body.classList.toggle("reading", Boolean(n));
    if (push) history.pushState(null, "", address);
    mark(n);
    const title = view.querySelector("h2");
    document.title = n && title ? `${title.textContent} · Sandbox inbox` : "Sandbox inbox";
    if (focus) view.focus({ preventScroll: true });
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.row, .tabs a, a.back");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const tab = link.closest(".tabs") ? link.textContent : "";
    const narrow = getComputedStyle(list).display === "none" || link.matches(".back");
    show(link.getAttribute("href"), { push: !tab, focus: false }).then(() => {
      if (tab) [...view.querySelectorAll(".tabs a")].find((a) => a.textContent === tab)?.focus();
      else if (narrow && link.matches(".back")) list.querySelector(".row")?.focus();
      else if (getComputedStyle(list).display === "none") view.focus({ preventScroll: true });
    });
  });
  window.addEventListener("popstate", () => location.reload());
  for (const select of document.querySelectorAll(".search select")) select.addEventListener("change", () => select.form.requestSubmit());
  list.querySelector(".row[aria-current]")?.scrollIntoView({ block: "center" });

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      document.getElementById("q").focus();
    }
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    const inList = list.contains(document.activeElement);
    if (!step || (event.key.startsWith("Arrow") && !inList)) return;
    const all = rows();
    const at = all.findIndex((row) => row === document.activeElement || (!inList && row.hasAttribute("aria-current")));
    const next = all[at === -1 ? 0 : at + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
    show(next.getAttribute("href"));
  });

  // Puts the new rows above the old ones; elements that stay are never replaced, so focus and scrolling stay too.
  function merge(fresh) {
    const old = listing();
    const oldRows = old.querySelector(".rows");
    const newRows = fresh.querySelector(".rows");
    if (!oldRows || !newRows || fresh.dataset.reset !== old.dataset.reset) {
      if (old.contains(document.activeElement) && fresh.dataset.reset === old.dataset.reset && !newRows) return;
      list.replaceChildren(fresh);
      return;
    }
    const known = new Set([...oldRows.children].map((item) => item.dataset.n));
    const wanted = new Set([...newRows.children].map((item) => item.dataset.n));
    const added = [...newRows.children].filter((item) => !known.has(item.dataset.n));
    for (const item of added) item.firstElementChild.classList.add("fresh");
    const anchor = [...oldRows.children].find((item) => wanted.has(item.dataset.n)) || null;
    const before = list.scrollTop ? oldRows.scrollHeight : 0;
    for (const item of added) oldRows.insertBefore(item, anchor);
    for (const item of [...oldRows.children]) {
      if (!wanted.has(item.dataset.n) && !item.contains(document.activeElement)) item.remove();
    }
    if (before) list.scrollTop += oldRows.scrollHeight - before;
    fresh.querySelectorAll(".chips a b").forEach((count, i) => { old.querySelectorAll(".chips a b")[i].textContent = count.textContent; });
    const [oldRange, newRange] = [old, fresh].map((part) => part.querySelector(".pages span:not(:empty)"));
    if (oldRange && newRange) oldRange.textContent = newRange.textContent;
    old.dataset.last = fresh.dataset.last;
  }

  async function poll() {
    try {
      if (live.checked && !document.hidden) {
        const state = await (await fetch("/inbox/poll")).json();
        const now = listing().dataset;
        if (String(state.last) !== now.last || String(state.reset) !== now.reset) {
          const query = new URLSearchParams(location.search);
          query.delete("m"); // the list stays on its page while its open message moves on to the next
          query.set("page", now.page);
          const fresh = parse(await fetchText(`/inbox/list?${query}`)).querySelector(".listing");
          if (fresh) merge(fresh);
        }
      }
      document.body.classList.remove("offline");
    } catch {
      document.body.classList.add("offline");
    }
    setTimeout(poll, POLL_MS);
  }
  setTimeout(poll, POLL_MS);
})();
