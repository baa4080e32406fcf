/** Finds declarations in code of the usual languages by their first lines, and their ends by indentation. Pure. */

const MODIFIERS = String.raw`(?:(?:export|default|declare|public|private|protected|internal|static|async|abstract|final|override|readonly|unsafe|pub(?:\([^)]*\))?|virtual|inline|const|extern|sealed|partial|open|suspend|data)\s+)*`;
const KEYWORDS = new RegExp(
  String.raw`^\s*${MODIFIERS}(?:function\*?|class|interface|type|enum|struct|trait|impl|def|fn|func|fun|module|namespace|object|record|protocol)\s+(?:\([^)]*\)\s*)?([A-Za-z_$][\w$]*)`,
);
const VALUE =
  /^\s*(?:export\s+)?(?:default\s+)?(?:const|let|var|val|static)\s+(?:mut\s+)?([A-Za-z_$][\w$]*)\s*(?::[^=]+)?=/;
/** A constant of a language that has no word for it. */
const CONSTANT = /^([A-Z][A-Z0-9_]+)\s*(?::[^=]+)?=(?!=)/;
const METHOD = new RegExp(
  String.raw`^\s+${MODIFIERS}(?:get\s+|set\s+)?(#?[A-Za-z_$][\w$]*)\s*(?:<[^>]*>)?\([^;]*\)\s*(?::\s*[^;{]+)?\{\s*(?:\}\s*)?$`,
);
const TYPED =
  /^\s*(?:[A-Za-z_][\w:<>,*&\s[\]]*\s[*&]*)([A-Za-z_]\w*)\s*\([^;]*\)\s*(?:const\s*)?(?:noexcept\s*)?\{?\s*$/;
const NOT_NAMES = new Set([
  "if",
  "for",
  "while",
  "switch",
  "catch",
  "return",
  "else",
  "do",
  "function",
  "with",
  "new",
  "throw",
  "await",
]);
/** A line above a declaration that belongs to it. */
const LEADING = /^\s*(?:@\w|#\[|\/\/|\/\*|\*|#(?!include|define|if|endif|!)|\[\w)/;

/** The name that a line declares. */
export function nameIn(line: string): string | undefined {
  if (/^\s*(?:return|else|throw|await|new|import|from)\b/.test(line)) return undefined;
  const found = [KEYWORDS, VALUE, CONSTANT, METHOD, TYPED].map((each) => each.exec(line)?.[1]).find(Boolean);
  return found === undefined || NOT_NAMES.has(found) ? undefined : found;
}

/** The names declared at the least indentation of these lines, in their order. */
export function declaredIn(lines: readonly string[]): readonly string[] {
  const depths = lines.filter((line) => line.trim() !== "").map(depthOf);
  const least = Math.min(...depths);
  const names: string[] = [];
  for (const line of lines) {
    const name = line.trim() !== "" && depthOf(line) === least ? nameIn(line) : undefined;
    if (name !== undefined && !names.includes(name)) names.push(name);
  }
  return names;
}

/** The line of the only declaration of this name, from 0; of several the least indented one, when there is one such. */
export function findDeclaration(lines: readonly string[], name: string): number | "many" | undefined {
  const found: number[] = [];
  for (const [at, line] of lines.entries()) if (line.includes(name) && nameIn(line) === name) found.push(at);
  if (found.length === 0) return undefined;
  const depths = found.map((at) => depthOf(lines[at] ?? ""));
  const least = Math.min(...depths);
  const outer = found.filter((_, index) => depths[index] === least);
  const only = outer[0];
  return outer.length === 1 && only !== undefined ? only : "many";
}

/** From the declaration's line to behind its last; `leading`: where the comments and decorators above it begin. */
export function extentOf(
  lines: readonly string[],
  at: number,
): { readonly leading: number; readonly from: number; readonly to: number } {
  const depth = depthOf(lines[at] ?? "");
  let leading = at;
  while (leading > 0 && LEADING.test(lines[leading - 1] ?? "") && depthOf(lines[leading - 1] ?? "") >= depth) leading--;
  let to = at + 1;
  let last = at + 1;
  for (; to < lines.length; to++) {
    const line = lines[to] ?? "";
    if (line.trim() === "") continue;
    const here = depthOf(line);
    if (here > depth) {
      last = to + 1;
      continue;
    }
    if (here === depth && /^\s*(?:[})\]]|end\b|\{\s*$)/.test(line)) {
      last = to + 1;
      if (!/^\s*\{\s*$|[{([:]\s*$|=>\s*$/.test(line)) break;
      continue;
    }
    break;
  }
  return { leading, from: at, to: last };
}

function depthOf(line: string): number {
  let depth = 0;
  for (const letter of line) {
    if (letter === " ") depth++;
    else if (letter === "\t") depth += 4;
    else break;
  }
  return depth;
}
