/** A model that was made for talk: greetings, control words, the line before the cursor once more. */

import { isTalk } from "../fence";
import type { Where } from "../where";
import { changed, dropped, type Filtered } from "./filter";

const CONTROL =
  /<\|?(fim_(prefix|middle|suffix|pad)|file_sep|repo_name|endoftext|end_of_text|im_(start|end)|eot_id)\|?>|<｜[^｜\n]{1,30}｜>|<\/s>|\[(PREFIX|SUFFIX|MIDDLE)\]|<(PRE|SUF|MID|EOT)>/;
export function echo(text: string, where: Where): Filtered {
  const control = CONTROL.exec(text);
  const plain = control === null ? text : text.slice(0, control.index);
  if (where.family !== "prose" && isTalk(plain)) return dropped("the model talked instead of completing");
  if (where.language !== "markdown" && /^\s*```[^\n]*$/.test(plain)) return dropped("nothing but a fence");
  const added = withoutPrompt(plain, where);
  const why = added !== plain ? "repeated what stands before the cursor" : "a control word";
  return changed(text, added, why);
}

/** Without the cursor's own line, or the last lines with it, where the answer begins with them. */
function withoutPrompt(text: string, where: Where): string {
  const own = where.before.trim();
  const last = where.above.at(-1);
  if (last !== undefined && last.trim().length >= 4) {
    const both = `${last.trim()}\n`;
    const rest = text.trimStart();
    if (rest.startsWith(both) && own !== "" && rest.slice(both.length).trimStart().startsWith(own)) {
      return rest.slice(both.length).trimStart().slice(own.length);
    }
  }
  const begun = text.trimStart();
  const telling = own.length >= 4 && /\w/.test(own) && /\W/.test(own);
  return telling && begun.startsWith(own) ? begun.slice(own.length) : text;
}
