// Runs tests.cjs inside the real extension host, with the extension loaded from its built folder.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { EXTENSION, makeRun, sleep, startBrowser, startWorkbench } from "../e2e/harness.mjs";
import { KEY, Server } from "../e2e/server.mjs";

const run = makeRun();
const server = new Server(run);
let code = 2;
let workbench;
let browser;
try {
  server.answers([["def add\\(a, b\\):", "\n    return a + b"]]);
  await server.startEngine();
  await server.startGateway();
  workbench = await startWorkbench({
    run,
    files: { "hello.py": "# start\n" },
    settings: { "aicockpit.url": server.url, "aicockpit.workspace.sync": "never" },
    args: ["--vscode-option", "enable-smoke-test-driver"],
  });
  ({ browser } = await startBrowser({ run }));
  const page = browser.pages()[0];
  let done;
  const ended = new Promise((resolve) => {
    done = resolve;
  });
  await page.exposeFunction("codeAutomationLog", (type, args) => {
    if (type === "error") String(args[0]).includes("spdlog") || console.log("  [host]", ...args);
  });
  await page.exposeFunction("codeAutomationExit", (exit) => done(exit));
  const uri = (file) => `vscode-remote://127.0.0.1:${workbench.port}${file}`;
  const payload = [
    ["extensionDevelopmentPath", uri(EXTENSION)],
    ["extensionTestsPath", uri(path.join(EXTENSION, "test/host", process.argv[2] ?? "tests.cjs"))],
    ["skipWelcome", "true"],
  ];
  fs.writeFileSync(`${run}/given.json`, JSON.stringify({ url: server.url, key: KEY }));
  await page.goto(`${workbench.url}&payload=${encodeURIComponent(JSON.stringify(payload))}`);
  code = await Promise.race([ended, sleep(200_000).then(() => 3)]);
  if (code) await page.screenshot({ path: path.join(process.env.SHOTS ?? run, "fail-host.png") });
} finally {
  await browser?.close();
  await workbench?.stop();
  await server.stop();
}
try {
  const { lines, passed, failed } = JSON.parse(fs.readFileSync(`${workbench.tree}/results.json`, "utf8"));
  console.log(lines.join("\n"));
  console.log(`${passed} passed, ${failed} failed`);
} catch (error) {
  console.log(`no results (${error}); run folder ${run}`);
  code ||= 4;
}
if (!code && !process.env.KEEP) fs.rmSync(run, { recursive: true, force: true });
process.exit(code);
