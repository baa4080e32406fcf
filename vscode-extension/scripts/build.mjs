// Bundles the extension (Node) and its two pages (browser) into dist/. `--production` minifies and writes the README of the
// package, `--watch` stays.
import { mkdirSync } from "node:fs";
import process from "node:process";
import { context } from "esbuild";
import { writePackaged } from "./readme.mjs";

const production = process.argv.includes("--production");
const shared = {
  bundle: true,
  minify: production,
  sourcemap: production ? false : "linked",
  logLevel: "info",
  legalComments: "none",
};
mkdirSync("dist", { recursive: true });
if (production) writePackaged("README.md", "dist/README.md");
const builds = [
  {
    ...shared,
    entryPoints: ["src/extension.ts"],
    outfile: "dist/extension.js",
    platform: "node",
    format: "cjs",
    target: "node20",
    external: ["vscode"],
  },
  {
    ...shared,
    entryPoints: ["src/webview/chat.ts", "src/webview/panel.ts"],
    outdir: "dist",
    platform: "browser",
    format: "iife",
    target: "es2022",
  },
];
for (const options of builds) {
  const made = await context(options);
  if (process.argv.includes("--watch")) await made.watch();
  else {
    await made.rebuild();
    await made.dispose();
  }
}
