// Imports point down: extension > ui > features > context > api; only ui and extension.ts know the editor.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import process from "node:process";

const SOURCE = resolve(import.meta.dirname, "..", "src");
const MAY = {
  api: [],
  context: ["api"],
  features: ["api", "context"],
  webview: ["features"],
  ui: ["api", "context", "features"],
  "extension.ts": ["ui", "features"],
};
const KNOWS_EDITOR = new Set(["ui", "extension.ts"]);
const LINES = 400;
// There the links that a foreign text may hold are taken out.
const SAYS = "ui/say.ts";

const wrong = [];
for (const name of readdirSync(SOURCE, { recursive: true })) {
  if (!/\.(ts|css)$/.test(name)) continue;
  const path = join(SOURCE, name);
  const text = readFileSync(path, "utf8");
  if (text.split("\n").length - 1 > LINES) wrong.push(`${name}: more than ${LINES} lines`);
  if (name.endsWith(".css")) continue;
  const room = name.split("/")[0];
  if (!(room in MAY)) wrong.push(`${name}: no room of that name`);
  if (name !== SAYS && /window\.show\w+Message\b/.test(text)) wrong.push(`${name} shows a message past ${SAYS}`);
  for (const [, target] of text.matchAll(/(?:from|import\()\s*"([^"]+)"/g)) {
    if (target === "vscode" && !KNOWS_EDITOR.has(room)) wrong.push(`${name} imports vscode`);
    if (room === "webview" && target.startsWith("node:")) wrong.push(`${name} imports ${target}`);
    if (!target.startsWith(".")) continue;
    const other = relative(SOURCE, resolve(dirname(path), target)).split("/")[0];
    if (other !== room && !MAY[room]?.includes(other)) wrong.push(`${name} imports ${target}`);
  }
}
for (const line of wrong) console.error(line);
console.log(wrong.length ? `${wrong.length} wrong imports or files` : "imports point down, files are short");
process.exit(wrong.length ? 1 : 0);
