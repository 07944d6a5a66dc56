// The address's hash says what is seen, so that a link shows the same; controls change the hash, and the hash is shown.
const part = name => document.getElementById(name);
const controls = {q: part("filter"), show: part("verdict"), said: part("said"), order: part("order")};
const list = part("sections");
let sections = [], current = null, enter = 0, typing = 0, turn = 0, shownHash = null;

const wished = more => ({...wishOf(location.hash), ...more});
const go = (wish, replaced) => { if (replaced) location.replace(hashOf(wish)); else location.hash = hashOf(wish); };
const last = hits => Math.max(1, Math.ceil(hits.length / head.page));

async function show() {
  const mine = ++turn, wish = wished();
  fillControls(wish);
  list.setAttribute("aria-busy", "true");
  try {
    const late = setTimeout(() => { if (mine === turn) part("hits").textContent = "Loading…"; }, 200);
    const hits = await hitsOf(wish).finally(() => clearTimeout(late));
    const page = Math.min(wish.page, last(hits));
    const here = hits.slice((page - 1) * head.page, page * head.page);
    const found = await sectionsAt(here.map(hit => hit.section));
    if (mine !== turn) return;
    part("trouble").hidden = true;
    draw(found.map((section, place) => drawn(section, here[place].edits)));
    tell(hits, page);
  } catch (error) {
    if (mine !== turn) return;
    part("trouble").textContent = error.message;
    part("trouble").hidden = false;
    part("hits").textContent = "";
  }
  list.removeAttribute("aria-busy");
}

function fillControls(wish) {
  for (const [name, control] of Object.entries(controls)) {
    if (!control || (name === "q" && typing)) continue;
    control.value = wish[name];
    if (control.value !== wish[name]) control.value = "";
  }
  for (const name of ["show", "said", "order"]) wish[name] = controls[name]?.value || "";  // others are no choices
  if (!token) wish.said = "";
}

function draw(made) {
  sections.forEach(forget);
  sections = made;
  chosen = null;
  if (token) made.forEach(reviewable);
  list.replaceChildren(...made);
  if (shownHash !== null && shownHash !== location.hash) scrollTo(0, 0);
  shownHash = location.hash;
  current = null;
  if (enter) enterClip(enter > 0 ? made[0] : made[made.length - 1]);
  enter = 0;
}

function tell(hits, page) {
  const edits = hits === everything ? head.edits : hits.reduce((sum, hit) => sum + hit.edits.length, 0);
  const pages = last(hits);
  part("hits").textContent = hits === everything ? "" : `${edits.toLocaleString("en")} of ${head.edits.toLocaleString("en")} edits`;
  part("nothing").hidden = hits.length > 0;
  part("nothing").textContent = hits === everything ? "Nothing to show." : "No edit fits.";
  part("pages").hidden = pages === 1;
  part("page").value = page;
  part("page").max = pages;
  part("last").textContent = pages.toLocaleString("en");
  part("previous").disabled = page === 1;
  part("next").disabled = page === pages;
  part("onward").hidden = page === pages;
}

const turnPage = step => go(wished({page: +part("page").value + step}));
part("previous").addEventListener("click", () => turnPage(-1));
part("next").addEventListener("click", () => turnPage(1));
part("onward").addEventListener("click", () => turnPage(1));
part("page").addEventListener("change", () => {
  part("page").value = Math.max(1, Math.min(+part("page").max, Math.round(+part("page").value) || 1));
  turnPage(0);
});
controls.q.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { typing = 0; go(wished({q: controls.q.value, page: 1}), true); }, 150);
});
for (const name of ["show", "said", "order"]) {
  controls[name]?.addEventListener("change", () => go(wished({[name]: controls[name].value, page: 1})));
}
addEventListener("hashchange", show);

// Arrows go from clip to clip and from page to page, 1 to 9 enlarge an edit, a slash leads to the search.
function enterClip(section) {
  if (current) { current.classList.remove("current"); stop(current); }
  current = section || null;
  if (!current) return;
  current.classList.add("current");
  current.scrollIntoView({block: "center"});
  start(current);
}
function goClip(step) {
  const at = sections.indexOf(current), to = at < 0 ? (step > 0 ? 0 : sections.length - 1) : at + step;
  if (to in sections) enterClip(sections[to]);
  else if (!part(step > 0 ? "next" : "previous").disabled) { enter = step; turnPage(step); }
}
document.addEventListener("keydown", event => {
  if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (step) goClip(step);
  else if (event.key === "/") { event.preventDefault(); controls.q.focus(); }
  else if (current && /^[1-9]$/.test(event.key)) {
    current.querySelectorAll("figure[data-key]")[event.key - 1]?.classList.toggle("large");
  }
});

(token ? readReviews() : Promise.resolve()).then(show);
