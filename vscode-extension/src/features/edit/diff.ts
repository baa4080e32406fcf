/** Two versions of some lines as one list of rows: what stays, what goes, what comes. Each change is a block to decide on. */

import { diffArrays } from "diff";
import { hasContent, isBlank } from "./lines";

/** One line under review. Rows of a block share its number; rows that stay have none (-1). */
export interface Row {
  readonly kind: "kept" | "old" | "new";
  readonly text: string;
  readonly block: number;
}

/** One change: rows `first` to `last` of the list, inclusive. */
export interface Block {
  readonly id: number;
  readonly first: number;
  readonly last: number;
  readonly old: number;
  readonly new: number;
}

export const NO_BLOCK = -1;

/** More than this many differences between two anchors are shown as one block: Myers is quadratic in them. */
const MOST_DIFFERENCES = 400;
/** Rows that say nothing (blank, brackets) between two changes do not part them, up to this many. */
const WEAK_ROWS = 1;

/**
 * The rows that lead from `before` to `after`: without the new ones they are `before`, without the old ones `after`.
 * A block's number is the count of lines of `before` above it, so that it lasts while `after` grows below.
 */
export function compare(before: readonly string[], after: readonly string[]): readonly Row[] {
  return numbered(joined(steps(before, after)));
}

/** What was there: what is left when every block is rejected. */
export function withoutNew(rows: readonly Row[]): readonly string[] {
  return rows.filter((row) => row.kind !== "new").map((row) => row.text);
}

/** What is proposed: what is left when every block is accepted. */
export function withoutOld(rows: readonly Row[]): readonly string[] {
  return rows.filter((row) => row.kind !== "old").map((row) => row.text);
}

export function textOf(rows: readonly Row[]): readonly string[] {
  return rows.map((row) => row.text);
}

/** The blocks that are still to be decided, from top to bottom. */
export function blocksOf(rows: readonly Row[]): readonly Block[] {
  const found = new Map<number, Block>();
  rows.forEach((row, at) => {
    if (row.kind === "kept") return;
    const known = found.get(row.block) ?? { id: row.block, first: at, last: at, old: 0, new: 0 };
    found.set(row.block, {
      ...known,
      last: at,
      old: known.old + (row.kind === "old" ? 1 : 0),
      new: known.new + (row.kind === "new" ? 1 : 0),
    });
  });
  return [...found.values()].sort((one, other) => one.first - other.first);
}

/** The new lines stay and the old ones go: of one block, or of all. */
export function accept(rows: readonly Row[], block?: number): readonly Row[] {
  return decide(rows, block, "old");
}

/** The old lines stay and the new ones go: of one block, or of all. */
export function reject(rows: readonly Row[], block?: number): readonly Row[] {
  return decide(rows, block, "new");
}

/** Rows that nobody has changed. */
export function keptRows(lines: readonly string[]): readonly Row[] {
  return lines.map(kept);
}

/** The block at this row, else the next one below, else the last one. */
export function blockAt(rows: readonly Row[], row: number): Block | undefined {
  const blocks = blocksOf(rows);
  return blocks.find((block) => block.last >= row) ?? blocks.at(-1);
}

function decide(rows: readonly Row[], block: number | undefined, goes: "old" | "new"): readonly Row[] {
  const meant = (row: Row) => row.kind !== "kept" && (block === undefined || row.block === block);
  return rows.filter((row) => !(meant(row) && row.kind === goes)).map((row) => (meant(row) ? kept(row.text) : row));
}

function kept(text: string): Row {
  return { kind: "kept", text, block: NO_BLOCK };
}

type Step = Pick<Row, "kind" | "text">;

function steps(before: readonly string[], after: readonly string[]): readonly Step[] {
  const shortest = Math.min(before.length, after.length);
  let head = 0;
  while (head < shortest && before[head] === after[head]) head++;
  let tail = 0;
  while (tail < shortest - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  const one = before.slice(head, before.length - tail);
  const other = after.slice(head, after.length - tail);
  return [
    ...all("kept", before.slice(0, head)),
    ...between(one, other, anchors(one, other)),
    ...all("kept", before.slice(before.length - tail)),
  ];
}

function all(kind: Row["kind"], lines: readonly string[]): readonly Step[] {
  return lines.map((text) => ({ kind, text }));
}

/** Lines that both sides have once each hold the two together (patience); between them the shortest script counts. */
function between(
  one: readonly string[],
  other: readonly string[],
  fixed: readonly (readonly [number, number])[],
): readonly Step[] {
  const result: Step[] = [];
  let left = 0;
  let right = 0;
  for (const [at, there] of fixed) {
    result.push(...shortest(one.slice(left, at), other.slice(right, there)), ...all("kept", one.slice(at, at + 1)));
    left = at + 1;
    right = there + 1;
  }
  result.push(...shortest(one.slice(left), other.slice(right)));
  return result;
}

function shortest(one: readonly string[], other: readonly string[]): readonly Step[] {
  if (one.length === 0 || other.length === 0) return [...all("old", one), ...all("new", other)];
  const changes = diffArrays([...one], [...other], { maxEditLength: MOST_DIFFERENCES });
  if (changes === undefined) return [...all("old", one), ...all("new", other)];
  return changes.flatMap((change) => all(change.added ? "new" : change.removed ? "old" : "kept", change.value));
}

/** Pairs of places of lines with something to say that are unique on both sides, in an order that both sides share. */
function anchors(one: readonly string[], other: readonly string[]): readonly (readonly [number, number])[] {
  const there = uniquePlaces(other);
  const pairs = [...uniquePlaces(one)].flatMap(([line, at]) => {
    const match = there.get(line);
    return match === undefined || !hasContent(line) ? [] : [[at, match] as const];
  });
  return longestRising(pairs);
}

function uniquePlaces(lines: readonly string[]): ReadonlyMap<string, number> {
  const places = new Map<string, number>();
  const again = new Set<string>();
  lines.forEach((line, at) => {
    if (places.has(line)) again.add(line);
    places.set(line, at);
  });
  for (const line of again) places.delete(line);
  return new Map([...places].sort((a, b) => a[1] - b[1]));
}

/** The longest choice of pairs (sorted by the first) whose second numbers rise: piles of patience sorting. */
function longestRising(pairs: readonly (readonly [number, number])[]): readonly (readonly [number, number])[] {
  interface Card {
    readonly pair: readonly [number, number];
    readonly below: Card | undefined;
  }
  const piles: Card[] = [];
  for (const pair of pairs) {
    let low = 0;
    let high = piles.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((piles[middle]?.pair[1] ?? 0) < pair[1]) low = middle + 1;
      else high = middle;
    }
    piles[low] = { pair, below: low > 0 ? piles[low - 1] : undefined };
  }
  const chosen: (readonly [number, number])[] = [];
  for (let card = piles.at(-1); card !== undefined; card = card.below) chosen.push(card.pair);
  return chosen.reverse();
}

/** Runs of changes, the old lines first; changes parted only by a bracket or a blank line become one. */
function joined(script: readonly Step[]): readonly Step[] {
  const result: Step[] = [];
  let old: Step[] = [];
  let fresh: Step[] = [];
  const flush = () => {
    result.push(...old, ...fresh);
    old = [];
    fresh = [];
  };
  for (let at = 0; at < script.length; at++) {
    const step = script[at] as Step;
    if (step.kind === "old") old.push(step);
    else if (step.kind === "new") fresh.push(step);
    else {
      const weak = old.length > 0 && fresh.length > 0 ? weakRun(script, at) : 0;
      for (const row of script.slice(at, at + weak)) {
        old.push({ ...row, kind: "old" });
        fresh.push({ ...row, kind: "new" });
      }
      if (weak === 0) {
        flush();
        result.push(step);
      } else at += weak - 1;
    }
  }
  flush();
  return result;
}

/** How many kept rows from here say nothing and are followed by a change with old and new lines; 0: they part. */
function weakRun(script: readonly Step[], from: number): number {
  let to = from;
  while (script[to]?.kind === "kept" && !hasContent(script[to]?.text ?? "")) to++;
  if (to - from > WEAK_ROWS || to - from === 0) return 0;
  let old = false;
  let fresh = false;
  for (let at = to; at < script.length && script[at]?.kind !== "kept"; at++) {
    if (script[at]?.kind === "old") old = true;
    else fresh = true;
  }
  return old && fresh ? to - from : 0;
}

/** Slides blocks to where people expect them, and numbers them. */
function numbered(script: readonly Step[]): readonly Row[] {
  const rows: Row[] = [];
  let above = 0;
  let block = NO_BLOCK;
  for (const step of slid(script)) {
    if (step.kind === "kept") block = NO_BLOCK;
    else if (block === NO_BLOCK) block = above;
    rows.push({ ...step, block });
    if (step.kind !== "new") above++;
  }
  return rows;
}

/**
 * A run of only new (or only old) lines may stand in several places when lines repeat: the lowest of them, but rather
 * one that begins after a blank line than one cut through a comment or a bracket.
 */
function slid(script: readonly Step[]): readonly Step[] {
  const steps = [...script];
  let at = 0;
  while (at < steps.length) {
    if (steps[at]?.kind === "kept") {
      at++;
      continue;
    }
    let end = at;
    while (end < steps.length && steps[end]?.kind !== "kept") end++;
    const pure = steps.slice(at, end).every((step) => step.kind === steps[at]?.kind);
    at = pure ? slide(steps, at, end) : end;
  }
  return steps;
}

/** Moves the run to its best place; returns where it ends. */
function slide(steps: Step[], first: number, end: number): number {
  let down = 0;
  while (free(steps, end + down + 1) && steps[end + down]?.text === steps[first + down]?.text) down++;
  const [low, lowEnd] = [first + down, end + down];
  const by = down - climb(steps, first, low, lowEnd);
  const kind = (steps[first] as Step).kind;
  const texts = steps.map((step) => step.text);
  const put = (at: number, as: Step["kind"]) => {
    steps[at] = { kind: as, text: texts[at] as string };
  };
  for (let at = first; at < end; at++) put(at, "kept");
  for (let at = first + by; at < end + by; at++) put(at, kind);
  return end + by;
}

/** Whether the row before `at` stays, so that a run may end there without touching the next change. */
function free(steps: readonly Step[], at: number): boolean {
  return steps[at - 1]?.kind === "kept" && (at >= steps.length || steps[at]?.kind === "kept");
}

/** How far up a run at `low` has to go to begin at the top or after a blank line; 0: it cannot, so it stays. */
function climb(steps: readonly Step[], first: number, low: number, lowEnd: number): number {
  for (let up = 0; ; up++) {
    const at = low - up;
    const above = steps[at - 1];
    if (above === undefined || isBlank(above.text)) return up;
    if (above.text !== steps[lowEnd - up - 1]?.text) return 0;
    const touches = at <= first + 1 && at >= 2 && steps[at - 2]?.kind !== "kept";
    if (touches) return 0;
  }
}
