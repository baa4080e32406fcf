/** A conversation as a Markdown file. */

import type { Kept, KeptTurn } from "./conversation";

/** Questions as headings, answers as they are, what was sent along by name, figures at the end of each answer. */
export function toMarkdown(kept: Kept): string {
  const day = new Date(kept.created).toISOString().slice(0, 10);
  return [`# ${kept.title}`, `*${day}*`, ...kept.turns.flatMap(turnParts)].join("\n\n").concat("\n");
}

/** A name for the file. */
export function fileName(kept: Kept): string {
  const words = kept.title
    .normalize("NFKD")
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "");
  return `${words.slice(0, 60).replace(/-+$/, "") || "chat"}.md`;
}

function turnParts(turn: KeptTurn): readonly string[] {
  const parts = ["## Question", turn.question];
  if (turn.mentions.length > 0) {
    parts.push(turn.mentions.map((mention) => `- ${mention.kind}: ${mention.detail || mention.label}`).join("\n"));
  }
  if (turn.images.length > 0)
    parts.push(`*${turn.images.length === 1 ? "One picture" : `${turn.images.length} pictures`}*`);
  parts.push("## Answer", closed(turn.answer) || "*No answer.*");
  const { ending } = turn;
  if (turn.sources.length > 0) {
    parts.push(turn.sources.map((source, at) => `${at + 1}. [${source.title}](<${source.href}>)`).join("\n"));
  }
  if (ending?.stopped === true) parts.push("*Stopped.*");
  if (ending?.fault !== undefined) parts.push(`*${ending.fault.message} ${ending.fault.fix}*`);
  parts.push(`*${figures(turn)}*`);
  return parts;
}

function figures(turn: KeptTurn): string {
  const usage = turn.ending?.usage;
  if (usage === undefined) return turn.model;
  const cached = usage.cached === undefined ? "" : `, ${usage.cached} of them cached`;
  return `${turn.model}, ${usage.prompt} tokens read${cached}, ${usage.completion} written`;
}

/** A stopped answer may end inside a fence, which would swallow the rest. */
function closed(answer: string): string {
  let open = "";
  for (const line of answer.split("\n")) {
    const fence = /^\s{0,3}(`{3,}|~{3,})(.*)$/.exec(line);
    if (fence === null) continue;
    const mark = fence[1] ?? "";
    if (open === "") open = mark;
    else if (mark.startsWith(open) && (fence[2] ?? "").trim() === "") open = "";
  }
  return open === "" ? answer : `${answer}\n${open}`;
}
