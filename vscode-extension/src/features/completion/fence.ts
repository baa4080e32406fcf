/** A chat model puts its code between fences, perhaps behind an introduction: what stands between them. Pure. */

const FENCE = /(^|\n)[ \t]*```[\w+#.-]*[ \t]*\n/;
const CLOSE = /(^|\n)[ \t]*```/;
const TALK =
  /^\s*(sure[,!. ]|certainly[,!. ]|of course[,!. ]|here('s| is| are) (the|your|a|an|how) [^\n]*(code|complet|implement|function|snippet|version)|the (missing|completed?) (code|part|text))/i;
/** More of an answer is no introduction. */
const LONGEST_TALK = 240;

export interface Uncovered {
  readonly text: string;
  /** `waiting`: a fence has begun to come, or is likely to; nothing is certain until it has. */
  readonly state: "bare" | "waiting" | "open" | "closed";
}

/** An answer that begins with words to a person. */
export function isTalk(text: string): boolean {
  return TALK.test(text);
}

/** `done`: nothing more comes. In Markdown a fence is text like any other. */
export function uncovered(raw: string, language: string, done: boolean): Uncovered {
  if (language === "markdown" || !/^\s*[`SCOHT]/i.test(raw)) return { text: raw, state: "bare" };
  const begins = /^\s*(`{1,2}|```[^\n]*)$/.test(raw);
  const talks = isTalk(raw);
  if (!begins && !talks && !/^\s*```/.test(raw)) return { text: raw, state: "bare" };
  const open = FENCE.exec(raw.slice(0, LONGEST_TALK));
  if (open === null) return { text: raw, state: !done && raw.length < LONGEST_TALK ? "waiting" : "bare" };
  const inner = raw.slice(open.index + open[0].length);
  const close = CLOSE.exec(inner);
  return close === null ? { text: inner, state: "open" } : { text: inner.slice(0, close.index), state: "closed" };
}
