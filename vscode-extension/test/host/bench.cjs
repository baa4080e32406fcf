// Loaded by the extension host: how long a user waits for us there. Prints one JSON line per figure into results.json.
const fs = require("node:fs");
const path = require("node:path");
const vscode = require("vscode");

const KEYSTROKES = 300;
const ACCEPTS = 25;
const PACE_MS = 60; // a fast typist's

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const share = (times, part) =>
  [...times].sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * part))];
const told = (times) => ({ times: times.length, p50: share(times, 0.5), p95: share(times, 0.95) });

/** Types and collects, from the traces, how long after the event of each change its request was handed to the HTTP stack. */
async function typing(services) {
  const document = await vscode.workspace.openTextDocument({ language: "python", content: "value = 1\n".repeat(3000) });
  const editor = await vscode.window.showTextDocument(document);
  editor.selection = new vscode.Selection(1500, 0, 1500, 0);
  const before = services.timeline.all()[0]?.id ?? 0;
  const sent = [];
  services.timeline.onChange((trace) => {
    if (trace.feature === "completion" && trace.id > before && trace.sentMs !== undefined && !sent[trace.id])
      sent[trace.id] = trace.sentMs;
  });
  for (let number = 0; number < KEYSTROKES; number += 1) {
    await vscode.commands.executeCommand("type", {
      text: number % 40 === 39 ? "\n" : String.fromCharCode(97 + ((number * 7) % 26)),
    });
    await sleep(PACE_MS);
  }
  return told(sent.filter((one) => one !== undefined));
}

/** Tab, from the command to the changed document. */
async function accepting() {
  const times = [];
  for (let number = 0; number < ACCEPTS; number += 1) {
    const document = await vscode.workspace.openTextDocument({ language: "python", content: "def add(a, b):" });
    const editor = await vscode.window.showTextDocument(document);
    editor.selection = new vscode.Selection(0, 14, 0, 14);
    await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
    const changed = new Promise((done) => {
      const listener = vscode.workspace.onDidChangeTextDocument((event) => {
        if (event.document !== document) return;
        listener.dispose();
        done(performance.now());
      });
    });
    await sleep(300); // until it is shown
    const began = performance.now();
    await vscode.commands.executeCommand("editor.action.inlineSuggest.commit");
    const ended = await Promise.race([changed, sleep(3000)]);
    if (ended !== undefined) times.push(ended - began);
    await vscode.commands.executeCommand("workbench.action.revertAndCloseActiveEditor");
  }
  return told(times);
}

exports.run = async () => {
  const folder = vscode.workspace.workspaceFolders[0].uri.fsPath;
  const given = JSON.parse(fs.readFileSync(path.join(folder, "../given.json"), "utf8"));
  const services = await vscode.extensions.getExtension("aicockpit.aicockpit").activate();
  await services.context.secrets.store(`aicockpit.key ${given.url}`, given.key);
  for (let tries = 0; tries < 100 && (await services.connection.refresh()).kind !== "ready"; tries += 1)
    await sleep(100);
  const figures = { activationMs: services.activationMs, keystroke: await typing(services), accept: await accepting() };
  const lines = [JSON.stringify(figures)];
  fs.writeFileSync(path.join(folder, "results.json"), JSON.stringify({ lines, passed: 1, failed: 0 }));
};
