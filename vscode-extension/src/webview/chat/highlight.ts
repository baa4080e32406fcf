/** Colours for code: highlight.js with the common languages, made into elements without markup being parsed. */

import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import lua from "highlight.js/lib/languages/lua";
import makefile from "highlight.js/lib/languages/makefile";
import php from "highlight.js/lib/languages/php";
import powershell from "highlight.js/lib/languages/powershell";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const LANGUAGES = {
  bash,
  cpp,
  csharp,
  css,
  diff,
  dockerfile,
  go,
  ini,
  java,
  javascript,
  json,
  kotlin,
  lua,
  makefile,
  php,
  powershell,
  python,
  ruby,
  rust,
  shell,
  sql,
  typescript,
  xml,
  yaml,
} as const;

for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);
hljs.registerAliases(["vue", "svelte"], { languageName: "xml" });
hljs.registerAliases(["jsonc", "json5"], { languageName: "json" });
// Near enough, and a tenth of the page's size less.
hljs.registerAliases(["c", "h"], { languageName: "cpp" });
hljs.registerAliases(["scss", "less", "sass"], { languageName: "css" });

const AKIN: ReadonlySet<string> = new Set(["c", "h", "scss", "less", "sass", "vue", "svelte", "jsonc", "json5"]);
const SHELLS: ReadonlySet<string> = new Set([
  "bash",
  "sh",
  "shell",
  "zsh",
  "fish",
  "console",
  "shellsession",
  "shell-session",
  "terminal",
  "powershell",
  "ps1",
  "pwsh",
  "bat",
  "batch",
  "cmd",
]);

/** Beyond this, code is shown without colours, so that one block cannot freeze the page. */
const MOST_CODE = 200_000;
const LONGEST_LINE = 5_000;

/** Code that a terminal takes. */
export function isShell(language: string): boolean {
  return SHELLS.has(language);
}

/** A language's name for people: `TypeScript`; as it was written where it is not known, or only akin to a known one. */
export function languageName(language: string): string {
  if (AKIN.has(language)) return language;
  return hljs.getLanguage(language)?.name?.replace(/, .*$/, "") ?? language;
}

/** The code as coloured nodes; as plain text where the language is unknown or the code too large. */
export function highlighted(code: string, language: string): Node[] {
  if (!hljs.getLanguage(language) || code.length > MOST_CODE || hasLongLine(code))
    return [document.createTextNode(code)];
  return nodesOf(hljs.highlight(code, { language, ignoreIllegals: true }).value);
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&amp;": "&",
  "&lt;": "<",
  "&gt;": ">",
  "&quot;": '"',
  "&#x27;": "'",
};

/** highlight.js writes nothing but spans with a class and five entities; whatever else there is becomes text. */
function nodesOf(value: string): Node[] {
  const top = document.createDocumentFragment();
  const stack: Node[] = [top];
  for (const [piece, className] of value.matchAll(/<span class="([^"<>]*)">|<\/span>|[^<]+|</g)) {
    const parent = stack.at(-1) ?? top;
    if (className !== undefined) {
      const span = document.createElement("span");
      span.className = className;
      parent.appendChild(span);
      stack.push(span);
    } else if (piece === "</span>") {
      if (stack.length > 1) stack.pop();
    } else {
      const text = piece.replace(/&(?:amp|lt|gt|quot|#x27);/g, (entity) => ENTITIES[entity] ?? entity);
      parent.appendChild(document.createTextNode(text));
    }
  }
  return [...top.childNodes];
}

function hasLongLine(code: string): boolean {
  let start = 0;
  while (start < code.length) {
    const end = code.indexOf("\n", start);
    if ((end < 0 ? code.length : end) - start > LONGEST_LINE) return true;
    if (end < 0) return false;
    start = end + 1;
  }
  return false;
}
