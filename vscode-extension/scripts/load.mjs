// Milliseconds that Node takes to load dist/extension.js, each time in a process of its own; the editor is a stand-in.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";

const ROOT = resolve(import.meta.dirname, "..");
const names = new Set();
for (const file of readdirSync(join(ROOT, "src"), { recursive: true })) {
  if (!file.endsWith(".ts")) continue;
  for (const [, name] of readFileSync(join(ROOT, "src", file), "utf8").matchAll(/\bvscode\.(\w+)/g)) names.add(name);
}
const code = `
  const Module = require("node:module");
  const load = Module._load;
  const any = new Proxy(class {}, { get: (target, name) => (name === "prototype" ? target.prototype : any), apply: () => any });
  const editor = Object.fromEntries(${JSON.stringify([...names])}.map((name) => [name, any]));
  Module._load = (name, ...rest) => (name === "vscode" ? editor : load(name, ...rest));
  const began = performance.now();
  require(${JSON.stringify(join(ROOT, "dist/extension.js"))});
  console.log(performance.now() - began);
`;
const times = [];
for (let number = 0; number < 20; number += 1) {
  const { stdout, stderr } = spawnSync(process.execPath, ["-e", code], { encoding: "utf8" });
  if (!stdout) throw new Error(stderr.slice(-500));
  times.push(Number(stdout));
}
times.sort((a, b) => a - b);
console.log(JSON.stringify({ times: times.length, p50: times[10], p95: times[18] }));
