// What a person wants to see, as the address's hash says it, and which edits that is.
const WORD_LIMIT = /^([a-z0-9_]+)([<>])(-?\d*\.?\d+)$/;
const UNFINISHED = /^[a-z0-9_]+[<>]-?\.?$/;
const KEY_CHARACTERS = 12;  // of a key in the search index
const said = new Map();  // an edit's key -> what a person said

function wishOf(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const wish = {page: Math.max(1, parseInt(given.get("page"), 10) || 1)};
  for (const name of ["q", "show", "said", "order"]) wish[name] = given.get(name) || "";
  return wish;
}
function hashOf(wish) {
  const given = new URLSearchParams();
  for (const name of ["q", "show", "said", "order"]) if (wish[name]) given.set(name, wish[name]);
  if (wish.page > 1) given.set("page", wish.page);
  return `#${given}`;
}

// Hits are {section, edits}: a section's number, and the places of its edits that fit; no edits means all of them.
const everything = Array.from({length: head.sections}, (_, section) => ({section}));
async function hitsOf(wish) {
  const typed = wish.q.toLowerCase().split(/\s+/).filter(word => word && !UNFINISHED.test(word));
  if (!typed.length && !wish.show && !wish.said && !wish.order) return everything;
  const found = await Promise.all(head.indexes.map(shard));
  const hits = found.flatMap(index => fitting(index, typed, wish));
  return wish.order ? hits.sort((a, b) => a.best - b.best || a.section - b.section) : hits;
}

function fitting(index, typed, wish) {
  const fits = fitsOf(index, typed, wish), worth = worthOf(index, wish.order);
  const hits = [];
  let first = 0;
  index.counts.forEach((count, place) => {
    let edits = [];
    for (let tile = 0; tile < count; tile++) if (fits(first + tile, place)) edits.push(tile);
    const start = first;
    if (wish.order) edits = edits.sort((a, b) => worth(start + a) - worth(start + b) || a - b);
    if (edits.length) hits.push({section: index.first + place, edits, best: worth(first + edits[0])});
    first += count;
  });
  return hits;
}

// Whether an edit fits, given its place and its section's: each word is looked up once in each text, then by number.
function fitsOf(index, typed, wish) {
  const limits = typed.map(word => WORD_LIMIT.exec(word)).filter(Boolean);
  const words = typed.filter(word => !WORD_LIMIT.test(word)).map(word => index.texts.map(text => text.includes(word)));
  const shown = wish.show && new Set([...new Set(index.groups)].filter(text => index.texts[text].split(" ").includes(wish.show)));
  const saidShort = new Map([...said].map(([key, word]) => [key.slice(0, KEY_CHARACTERS), word]));
  const columns = new Map(index.values);
  const within = (edit, [, name, side, limit]) => {
    const value = columns.get(name)?.[edit] ?? null;
    return value !== null && (side === "<" ? value < +limit : value > +limit);
  };
  const {clips, sources, prompts, recipes, own, groups, keys} = index;
  return (edit, place) =>
    words.every(has => has[clips[place]] || has[sources[place]] || has[prompts[edit]] || has[recipes[edit]] || has[own[edit]]
      || has[groups[edit]])
    && (!shown || shown.has(groups[edit]))
    && (!wish.said || (saidShort.get(keys[edit]) || "none") === wish.said)
    && limits.every(limit => within(edit, limit));
}

// The number that an edit is ordered by, the smallest first; what has none comes last.
function worthOf(index, order) {
  const sign = order.startsWith("-") ? -1 : 1;
  const column = new Map(index.values).get(order.replace(/^-/, ""));
  return edit => column && column[edit] !== null ? sign * column[edit] : Number.MAX_VALUE;
}
