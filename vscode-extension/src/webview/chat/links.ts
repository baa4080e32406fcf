/** Which links of an answer may be opened. The extension checks again before it opens one. */

const LONGEST = 2048;
const DRIVE = /^[A-Za-z]:[\\/]/;
const PLACE_IN_FILE = /^[^:]*\.[^:/\\]+:\d+([:-]\d+)?$/;
const PATH_IN_CODE = /^(?:[\w@.-]+\/)+[\w@.-]*\.\w{1,8}(?::\d+(?:[:-]\d+)?)?$|^[\w@.-]+\.\w{1,8}:\d+(?:[:-]\d+)?$/;

/** A web address, or a path of a file with its percent signs undone; undefined: nothing that we open (`javascript:`, `data:`, `command:`, …). */
export function linkTarget(href: string): string | undefined {
  const target = href.trim();
  if (target === "" || target.length > LONGEST || hasControl(target)) return undefined;
  if (/^https?:\/\/[^/]/i.test(target)) return target;
  const path = decoded(target);
  if (hasControl(path) || /^(?:[\\/]{2}|#|\?)/.test(path)) return undefined;
  const scheme = /^[a-z][a-z0-9+.-]*:/i.test(path) && !DRIVE.test(path) && !PLACE_IN_FILE.test(path);
  return scheme ? undefined : path;
}

/** Code such as `src/a.ts:12` that names a file. */
export function fileInCode(code: string): string | undefined {
  return code.length <= 300 && PATH_IN_CODE.test(code) && !code.includes("//") ? code : undefined;
}

/** The language and the file of a fence's info string: `ts src/a.ts`, `ts title="a.ts"`, `ts:src/a.ts`, `src/a.ts`. */
export function fenceInfo(info: string): { readonly language: string; readonly path: string | undefined } {
  const text = info.trim().slice(0, 300);
  const [first = "", ...rest] = text.split(/\s+/);
  const named = /(?:^|\s|\{)(?:title|file|filename|path)\s*=\s*["']?([^"'}]+?)["']?(?:\s|\}|$)/i.exec(text)?.[1];
  const colon = /^([\w+#.-]+):(.+)$/.exec(first);
  if (colon?.[1] && colon[2] && !DRIVE.test(first)) {
    return { language: colon[1].toLowerCase(), path: named ?? pathOf(colon[2]) };
  }
  if (first.includes("/") && pathOf(first)) return { language: extension(first), path: named ?? first };
  const language = first
    .toLowerCase()
    .replace(/^\{?\.?/, "")
    .replace(/[{},].*$/, "");
  return { language, path: named ?? rest.map(pathOf).find((path) => path !== undefined) };
}

function pathOf(word: string): string | undefined {
  const path = word.replace(/:\d+(-\d+)?$/, "");
  return /^[^\s={}"']*[\w)\]]\.\w{1,10}$/.test(path) || /^[\w@.-]+(\/[\w@.-]+)+$/.test(path) ? path : undefined;
}

function extension(path: string): string {
  return /\.(\w+)(?::[\d-]+)?$/.exec(path)?.[1]?.toLowerCase() ?? "";
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a lone percent sign
  }
}

function hasControl(text: string): boolean {
  for (let index = 0; index < text.length; index++) if (text.charCodeAt(index) < 32) return true;
  return false;
}
