/** How far a streamed answer has come in the text it rewrites, so that what it has not come to is not shown as deleted. */

import { alike, hasContent, sameLines } from "./lines";

/** The alignment so far. `costs[j]`: edits between the streamed lines and the first `j` lines of the base. */
export interface Reach {
  readonly base: readonly string[];
  readonly lines: readonly string[];
  readonly costs: readonly number[];
  /** Lines of the base that the streamed lines stand for. */
  readonly reached: number;
}

/** Skipping two lines of the base to meet one again costs no more than a line that is wholly new. */
const CAME = 2;
const GONE = 1;
/** A line and its changed form: cheaper than a new line, but no reason to skip any. */
const CHANGED = 1.5;

export function startReach(base: readonly string[]): Reach {
  return { base, lines: [], costs: Array.from({ length: base.length + 1 }, (_, at) => at * GONE), reached: 0 };
}

/** Goes on with the lines streamed since; begins anew when earlier lines are no longer the same. O(base) per line. */
export function follow(reach: Reach, lines: readonly string[]): Reach {
  const goesOn = lines.length >= reach.lines.length && sameLines(reach.lines, lines.slice(0, reach.lines.length));
  let now = goesOn ? reach : startReach(reach.base);
  if (now.lines.length === lines.length) return now;
  for (const line of lines.slice(now.lines.length)) now = step(now, line);
  return now;
}

/** A line that says nothing is everywhere: it is met at the next place or nowhere. */
function step(reach: Reach, line: string): Reach {
  const { base, reached } = reach;
  const costs = column(reach.costs, base, line);
  const stays = base[reached] === line ? reached + 1 : reached;
  return { base, costs, lines: [...reach.lines, line], reached: hasContent(line) ? place(costs, base, line) : stays };
}

/** What the whole text is if the answer ended here: the streamed lines, then what they have not come to. */
export function candidate(reach: Reach): readonly string[] {
  return [...reach.lines, ...reach.base.slice(reach.reached)];
}

function column(costs: readonly number[], base: readonly string[], line: string): readonly number[] {
  const next: number[] = [(costs[0] ?? 0) + CAME];
  for (let at = 1; at < costs.length; at++) {
    const here = base[at - 1] ?? "";
    const paired = here === line ? 0 : alike(here, line) ? CHANGED : GONE + CAME;
    next.push(Math.min((costs[at] ?? 0) + CAME, (next[at - 1] ?? 0) + GONE, (costs[at - 1] ?? 0) + paired));
  }
  return next;
}

/** The cheapest place; of several the last whose line is the streamed one or a form of it, else the first. */
function place(costs: readonly number[], base: readonly string[], last: string): number {
  const least = costs.reduce((one, other) => Math.min(one, other));
  let first = -1;
  let sure = -1;
  costs.forEach((cost, at) => {
    if (cost !== least) return;
    if (first < 0) first = at;
    const line = base[at - 1];
    if (line !== undefined && hasContent(line) && alike(line, last)) sure = at;
  });
  return sure >= 0 ? sure : Math.max(first, 0);
}
