/** A conversation's title: the first sentence of its first question. */

import type { Mention } from "./protocol";

const LONGEST = 60;

/** At most 60 characters, cut at a word; without code, mentions and Markdown. Empty: the question says nothing. */
export function titleOf(question: string, mentions: readonly Pick<Mention, "label">[] = []): string {
  const prose = question
    .replace(/```[\s\S]*?(?:```|$)/g, " ")
    .replace(/@(file|folder|symbol|docs)[: \t]+("[^"\n]*"|'[^'\n]*'|[^\s]*[./][^\s]*)/g, " $2 ")
    .replace(/@(file|folder|selection|symbol|problems|terminal|docs)\b:?/g, " ")
    .replace(/@(?=[\w./-]+)/g, "")
    .replace(/[`*_#>"]+/g, "")
    .trim();
  const line = prose.split("\n").find((each) => each.trim() !== "") ?? "";
  const sentence = /^.{8,}?[.?!](?=\s|$)/.exec(line.trim())?.[0] ?? line;
  const title = shorten(
    sentence
      .replace(/\s+/g, " ")
      .trim()
      .replace(/[.:,;]+$/, ""),
  );
  if (title !== "") return title;
  const code = question
    .replace(/```\w*/g, "")
    .replace(/\s+/g, " ")
    .trim();
  if (mentions.length > 0) return shorten(mentions.map((mention) => mention.label).join(", "));
  return /[\p{L}\p{N}]/u.test(code) ? shorten(code.replace(/^@/, "")) : "";
}

/** At most 60 characters, at the end of a word where there is one in the last third. */
export function shorten(text: string, longest = LONGEST): string {
  if (text.length <= longest) return text;
  const cut = text.slice(0, longest - 1);
  const blank = cut.lastIndexOf(" ");
  return `${(blank > (longest * 2) / 3 ? cut.slice(0, blank) : cut).replace(/[\s.,:;]+$/, "").replace(/[\ud800-\udbff]$/, "")}…`;
}
