// Served by `cogvideo-edit review`, which gives the page a token, a person says what to keep.
const token = document.documentElement.dataset.review;
const told = document.getElementById("told");
let chosen = null;
const ask = (method, body) => fetch("review", {method, body, headers: {"Content-Type": "application/json", "X-Review-Token": token}});

function note(key, word) {
  if (word) said.set(key, word); else said.delete(key);
  document.getElementById("reviewed").textContent = `${said.size.toLocaleString("en")} reviewed.`;
}
function mark(figure) {
  figure.dataset.said = said.get(figure.dataset.key) || "";
  for (const each of figure.querySelectorAll(".review button")) each.setAttribute("aria-pressed", each.dataset.say === figure.dataset.said);
}
function choose(figure) {
  if (chosen) chosen.classList.remove("chosen");
  chosen = figure;
  chosen.classList.add("chosen");
  chosen.scrollIntoView({block: "nearest"});
}
async function say(figure, word) {
  choose(figure);
  const answer = await ask("POST", JSON.stringify({edit_key: figure.dataset.key, said: word})).catch(() => null);
  told.textContent = answer && answer.ok ? "Saved." : "Not saved: the review server does not answer as it should; is it still running?";
  if (!answer || !answer.ok) return;
  note(figure.dataset.key, word === "undo" ? "" : word);
  mark(figure);
}

// Gives the edits of a section that was drawn their buttons.
function reviewable(section) {
  for (const figure of section.querySelectorAll("figure[data-key]")) {
    if (!figure.querySelector(".video")) continue;
    const buttons = ["keep", "reject", "prefer"].map(word => {
      const each = make("button", {type: "button", "data-say": word}, word[0].toUpperCase() + word.slice(1));
      each.addEventListener("click", event => {
        event.stopPropagation();
        say(figure, figure.dataset.said === word ? "undo" : word);
      });
      return each;
    });
    figure.append(make("div", {class: "review"}, ...buttons));
    figure.tabIndex = 0;
    figure.addEventListener("focus", () => choose(figure));
    figure.addEventListener("click", () => choose(figure));
    mark(figure);
  }
}

async function readReviews() {
  document.getElementById("reviewing").hidden = document.getElementById("said").hidden = false;
  try {
    const found = await (await ask("GET")).json();
    for (const [key, word] of Object.entries(found)) note(key, word);
  } catch {
    told.textContent = "What was said before could not be read.";
  }
}
document.addEventListener("keydown", event => {
  if (!token || event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  const word = {k: "keep", r: "reject", p: "prefer", u: "undo"}[event.key.toLowerCase()];
  if (word && chosen) say(chosen, word);
});
