/** Which of many paths a few typed letters mean. Pure; fast enough to be asked at each key on 50,000 paths. */

const MOST = 50_000;
/** A file opened lately is likelier meant than one whose name matches a little better. */
const RECENT = 250;

export interface Ranked {
  readonly path: string;
  readonly score: number;
}

/**
 * How well the words of `query` match `path`; undefined: they do not. Each word must be found, as a part or as letters
 * in order; the file's own name counts most, then beginnings of words, then short paths.
 */
export function score(query: string, path: string): number | undefined {
  return scoreWords(wordsOf(query), path, path.toLowerCase());
}

function wordsOf(query: string): readonly string[] {
  return query
    .toLowerCase()
    .replaceAll("\\", "/")
    .split(/\s+/)
    .filter((word) => word !== "");
}

function scoreWords(words: readonly string[], path: string, lower: string): number | undefined {
  let total = 0;
  for (const word of words) {
    const found = scoreWord(word, path, lower);
    if (found === undefined) return undefined;
    total += found;
  }
  return total / Math.max(1, words.length) - path.length / 100;
}

function scoreWord(word: string, path: string, lower: string): number | undefined {
  const name = lower.lastIndexOf("/") + 1;
  const inName = lower.indexOf(word, name);
  if (inName === name) {
    const rest = lower.length - name - word.length;
    if (rest === 0) return 1000;
    return lower[name + word.length] === "." ? 950 : 850 - Math.min(rest, 50);
  }
  if (inName > name) return startsWord(path, inName) ? 750 : 600;
  const inPath = lower.lastIndexOf(word);
  if (inPath >= 0) return startsWord(path, inPath) ? 500 : 400;
  const spread = letters(word, path, lower, name);
  if (spread !== undefined) return 250 + spread;
  const wide = letters(word, path, lower, 0);
  return wide === undefined ? undefined : 50 + wide;
}

/** The letters in order from `from` on: 0 to 150 by how many begin a word or follow each other. */
function letters(word: string, path: string, lower: string, from: number): number | undefined {
  let at = from - 1;
  let good = 0;
  for (let index = 0; index < word.length; index++) {
    const letter = word.charAt(index);
    let next = lower.indexOf(letter, at + 1);
    if (next < 0) return undefined;
    if (next !== at + 1 && !startsWord(path, next)) {
      const better = wordStart(letter, path, lower, next + 1);
      if (better >= 0 && canFollow(word, index + 1, lower, better + 1)) next = better;
    }
    if (next === at + 1 || startsWord(path, next)) good++;
    at = next;
  }
  return Math.round((150 * good) / word.length);
}

function wordStart(letter: string, path: string, lower: string, from: number): number {
  for (let at = lower.indexOf(letter, from); at >= 0; at = lower.indexOf(letter, at + 1)) {
    if (startsWord(path, at)) return at;
  }
  return -1;
}

function canFollow(word: string, index: number, lower: string, from: number): boolean {
  let at = from;
  for (let next = index; next < word.length; next++) {
    const found = lower.indexOf(word.charAt(next), at);
    if (found < 0) return false;
    at = found + 1;
  }
  return true;
}

function startsWord(path: string, at: number): boolean {
  if (at === 0) return true;
  const before = path.charCodeAt(at - 1);
  if (before === 47 || before === 46 || before === 95 || before === 45 || before === 32) return true;
  const here = path.charCodeAt(at);
  return here >= 65 && here <= 90 && !(before >= 65 && before <= 90);
}

/** One bit for each letter and some signs: a path without one of the query's cannot match. */
function mask(lower: string): number {
  let bits = 0;
  for (let at = 0; at < lower.length; at++) {
    const code = lower.charCodeAt(at);
    if (code >= 97 && code <= 122) bits |= 1 << (code - 97);
    else if (code >= 48 && code <= 57) bits |= 1 << 26;
    else if (code === 46) bits |= 1 << 27;
    else if (code === 95) bits |= 1 << 28;
    else if (code === 45) bits |= 1 << 29;
  }
  return bits;
}

/** The paths of a workspace, ready to be searched. Paths past the 50,000th are left out: `left` says how many. */
export class PathIndex {
  readonly #paths: readonly string[];
  readonly #lower: readonly string[];
  readonly #masks: Int32Array;
  readonly left: number;
  #last: { readonly query: string; readonly found: readonly number[] } | undefined;

  constructor(paths: readonly string[]) {
    this.#paths = paths.slice(0, MOST);
    this.left = paths.length - this.#paths.length;
    this.#lower = this.#paths.map((path) => path.toLowerCase());
    this.#masks = Int32Array.from(this.#lower, mask);
  }

  get paths(): readonly string[] {
    return this.#paths;
  }

  /** The best, best first. `recent`: paths, the latest opened first; with no query they come first, in that order. */
  search(query: string, limit: number, recent: readonly string[] = []): readonly Ranked[] {
    const words = wordsOf(query);
    const rank = new Map(recent.map((path, at) => [path, at]));
    if (words.length === 0) return this.#newest(limit, recent);
    const needed = mask(words.join(""));
    const best: Ranked[] = [];
    const found: number[] = [];
    for (const at of this.#candidates(words.join(" "))) {
      if (((this.#masks[at] ?? 0) & needed) !== needed) continue;
      const path = this.#paths[at] ?? "";
      const points = scoreWords(words, path, this.#lower[at] ?? "");
      if (points === undefined) continue;
      found.push(at);
      const place = rank.get(path);
      insert(best, { path, score: place === undefined ? points : points + RECENT / (1 + place / 5) }, limit);
    }
    this.#last = { query: words.join(" "), found };
    return best;
  }

  /** Whoever matches a longer query matched the shorter one. */
  #candidates(query: string): Iterable<number> {
    if (this.#last !== undefined && query.startsWith(this.#last.query)) return this.#last.found;
    return this.#paths.keys();
  }

  #newest(limit: number, recent: readonly string[]): readonly Ranked[] {
    const known = new Set(this.#paths);
    const first = recent.filter((path) => known.has(path));
    const others = this.#paths.slice(0, limit).filter((path) => !first.includes(path));
    return [...first, ...others].slice(0, limit).map((path) => ({ path, score: 0 }));
  }
}

function insert(best: Ranked[], item: Ranked, limit: number): void {
  const worst = best[best.length - 1];
  if (best.length >= limit && worst !== undefined && !before(item, worst)) return;
  let at = best.length;
  while (at > 0) {
    const other = best[at - 1];
    if (other === undefined || !before(item, other)) break;
    at--;
  }
  best.splice(at, 0, item);
  if (best.length > limit) best.pop();
}

function before(one: Ranked, other: Ranked): boolean {
  return one.score !== other.score ? one.score > other.score : one.path < other.path;
}
