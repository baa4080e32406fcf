// code-server and Chromium for one run: started in folders of that run, ended with it. No step waits by the clock.
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { chromium } from "playwright-core";

export const EXTENSION = path.resolve(import.meta.dirname, "../..");
const ENTRY = path.join(EXTENSION, ".e2e/code-server/node_modules/code-server/out/node/entry.js");

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(condition, what, limitMs = 15_000) {
  const end = Date.now() + limitMs;
  let last;
  while (Date.now() < end) {
    try {
      const value = await condition();
      if (value) return value;
    } catch (error) {
      last = error;
    }
    await sleep(50);
  }
  throw new Error(`never: ${what}${last ? ` (${last})` : ""}`);
}

export const freePort = () =>
  new Promise((done) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

export function makeRun() {
  return fs.mkdtempSync(path.join(os.tmpdir(), "workbench-"));
}

/** Counts steps; a failed one leaves a picture. */
export class Steps {
  passed = 0;
  failed = 0;
  constructor(shots) {
    this.shots = shots;
    fs.mkdirSync(shots, { recursive: true });
  }
  async step(name, page, work) {
    const began = Date.now();
    try {
      await work();
      this.passed += 1;
      console.log(`ok   ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      this.failed += 1;
      console.log(`FAIL ${name}: ${String(error.stack ?? error).slice(0, 2000)}`);
      await page?.screenshot({ path: path.join(this.shots, `fail-${name.replace(/\W+/g, "-")}.png`) }).catch(() => {});
    }
  }
  /** The last line: what a runner counts. */
  end() {
    console.log(`${this.passed} passed, ${this.failed} failed`);
    return this.failed ? 1 : 0;
  }
}

export const quietSettings = {
  "workbench.startupEditor": "none",
  "workbench.secondarySideBar.defaultVisibility": "hidden",
  "telemetry.telemetryLevel": "off",
  "extensions.autoUpdate": false,
  "extensions.autoCheckUpdates": false,
  "extensions.ignoreRecommendations": true,
  "workbench.enableExperiments": false,
  "workbench.settings.enableNaturalLanguageSearch": false,
  "update.mode": "none",
  "update.showReleaseNotes": false,
  "git.enabled": false,
  "npm.fetchOnlinePackageInfo": false,
  "json.schemaDownload.enable": false,
  "editor.quickSuggestions": { other: "off", comments: "off", strings: "off" },
  "editor.wordBasedSuggestions": "off",
  "editor.minimap.enabled": false,
  "editor.cursorBlinking": "solid",
  "workbench.reduceMotion": "on",
  "files.autoSave": "off",
  "remote.autoForwardPorts": false,
  "security.workspace.trust.enabled": false,
  "window.confirmBeforeClose": "never",
  "terminal.integrated.shellIntegration.enabled": true,
  "terminal.integrated.gpuAcceleration": "off",
};

function environment(run) {
  const env = {
    ...process.env,
    HOME: `${run}/home`,
    XDG_CONFIG_HOME: `${run}/home/.config`,
    XDG_DATA_HOME: `${run}/home/.local/share`,
    XDG_RUNTIME_DIR: `${run}/home/run`,
    EXTENSIONS_GALLERY: "{}",
  };
  delete env.VSCODE_IPC_HOOK_CLI;
  return env;
}

/** A workbench on a loopback port with a folder `name` of `files`; ends by `stop`. */
export async function startWorkbench({ run, name = "project", settings = {}, vsix, args = [], files = {} }) {
  const data = `${run}/user-data`;
  const tree = `${run}/${name}`;
  for (const folder of [
    `${data}/User`,
    `${data}/Machine`,
    `${run}/extensions`,
    tree,
    `${run}/home/run`,
    `${run}/home/.config`,
  ])
    fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(`${data}/User/settings.json`, JSON.stringify({ ...quietSettings, ...settings }, null, 2));
  // The address belongs to the machine that the extension runs on: the editor reads it from that machine's settings.
  fs.writeFileSync(`${data}/Machine/settings.json`, JSON.stringify(settings, null, 2));
  fs.writeFileSync(`${run}/none.yaml`, "auth: none\n");
  for (const [file, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(`${tree}/${file}`), { recursive: true });
    fs.writeFileSync(`${tree}/${file}`, text);
  }
  const common = ["--config", `${run}/none.yaml`, "--user-data-dir", data, "--extensions-dir", `${run}/extensions`];
  if (vsix) {
    const install = spawnSync(process.execPath, [ENTRY, ...common, "--install-extension", vsix, "--force"], {
      env: environment(run),
      encoding: "utf8",
      timeout: 120_000,
    });
    if (install.status !== 0) throw new Error(`the VSIX was not installed: ${install.stdout}${install.stderr}`);
  }
  const port = await freePort();
  const log = fs.openSync(`${run}/code-server.log`, "w");
  const flags = ["--auth", "none", "--bind-addr", `127.0.0.1:${port}`, "--disable-telemetry", "--disable-update-check"];
  const more = ["--disable-workspace-trust", "--disable-getting-started-override", ...args, tree];
  const child = spawn(process.execPath, [ENTRY, ...common, ...flags, ...more], {
    env: environment(run),
    stdio: ["ignore", log, log],
    detached: true, // server, extension host, terminals: one process group, ended together
  });
  const exited = new Promise((done) => child.on("exit", done));
  let gone = false;
  exited.then(() => {
    gone = true;
  });
  const healthy = () =>
    new Promise((done) => {
      const request = http.get({ host: "127.0.0.1", port, path: "/healthz", timeout: 2000 }, (answer) => {
        answer.resume();
        done(answer.statusCode === 200);
      });
      request.on("error", () => done(false)).on("timeout", () => request.destroy());
    });
  await until(() => gone || healthy(), "code-server listens", 60_000);
  if (gone) throw new Error(`code-server ended: ${fs.readFileSync(`${run}/code-server.log`, "utf8")}`);
  const end = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch {}
  };
  const stop = async () => {
    end("SIGTERM");
    await Promise.race([exited, sleep(5000)]);
    end("SIGKILL");
  };
  return { port, tree, data, run, stop, url: `http://127.0.0.1:${port}/?folder=${encodeURIComponent(tree)}` };
}

/** Chromium that can reach this machine and nothing else; `outside` collects what it tried. */
export async function startBrowser({ run, width = 1280, height = 800 }) {
  const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
    fs.existsSync,
  );
  const browser = await chromium.launchPersistentContext(`${run}/browser`, {
    executablePath,
    headless: true,
    viewport: { width, height },
    permissions: ["clipboard-read", "clipboard-write"],
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
    ],
  });
  const outside = new Set();
  browser.on("request", (request) => {
    const url = request.url();
    // What a webview loads has a name that no resolver is asked for: the workbench answers it itself.
    if (/^https:\/\/[^/]+\.vscode-resource\.vscode-cdn\.net\//.test(url)) return;
    if (/^https?:/.test(url) && !/^https?:\/\/(127\.0\.0\.1|localhost|[^/]*\.localhost)[:/]/.test(url))
      outside.add(url);
  });
  return { browser, outside };
}
