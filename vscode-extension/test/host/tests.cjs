// Loaded by the extension host itself: `run` resolves when all holds. What the editor's own API promises, with our code in it.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const vscode = require("vscode");

const folder = () => vscode.workspace.workspaceFolders[0].uri;
const until = async (condition, what, limitMs = 15_000) => {
  const end = Date.now() + limitMs;
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`never: ${what}`);
};

async function complete(document, position) {
  const editor = await vscode.window.showTextDocument(document);
  editor.selection = new vscode.Selection(position, position);
  const before = document.getText();
  await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
  await until(async () => {
    await vscode.commands.executeCommand("editor.action.inlineSuggest.commit");
    return document.getText() !== before;
  }, "the completion was accepted");
}

const TESTS = {
  "every command of the manifest is registered": async ({ extension }) => {
    const known = new Set(await vscode.commands.getCommands(true));
    const missing = extension.packageJSON.contributes.commands.filter((one) => !known.has(one.command));
    assert.deepEqual(
      missing.map((one) => one.command),
      [],
    );
  },
  "every setting has a default that its type allows": ({ extension }) => {
    const { properties } = extension.packageJSON.contributes.configuration;
    for (const [name, one] of Object.entries(properties)) {
      const kind = one.type === "integer" ? "number" : one.type;
      assert.equal(typeof vscode.workspace.getConfiguration().get(name), kind, name);
    }
  },
  "the server is found, and its model": async ({ services, given }) => {
    await services.context.secrets.store(`aicockpit.key ${given.url}`, given.key);
    await until(async () => (await services.connection.refresh()).kind === "ready", "ready");
    assert.equal((await services.connection.completionModel()).id, "fake");
  },
  "a completion is offered and accepted": async () => {
    const document = await vscode.workspace.openTextDocument({ language: "python", content: "def add(a, b):" });
    await complete(document, new vscode.Position(0, 14));
    assert.equal(document.getText(), "def add(a, b):\n    return a + b");
  },
  "its trace tells the steps": async ({ services }) => {
    const trace = await until(
      () => services.timeline.all().find((one) => one.feature === "completion" && one.outcome === "accepted"),
      "an accepted trace",
    );
    assert.ok(trace.sentMs >= 0 && trace.firstTokenMs >= trace.sentMs, JSON.stringify(trace));
    assert.ok(trace.requestId);
  },
  "a language that is off gets nothing": async ({ services }) => {
    await services.config.setLanguage("plaintext", false);
    const document = await vscode.workspace.openTextDocument({ language: "plaintext", content: "def add(a, b):" });
    const editor = await vscode.window.showTextDocument(document);
    editor.selection = new vscode.Selection(0, 14, 0, 14);
    const before = services.timeline.all().filter((one) => one.requestId).length;
    await vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
    await new Promise((done) => setTimeout(done, 500));
    assert.equal(services.timeline.all().filter((one) => one.requestId).length, before);
  },
  "the key stands in no setting": async ({ given }) => {
    assert.ok(!JSON.stringify(vscode.workspace.getConfiguration("aicockpit")).includes(given.key));
  },
  "our model answers through the editor's own model API": async () => {
    if (!vscode.lm?.selectChatModels) return;
    const [model] = await until(async () => {
      const found = await vscode.lm.selectChatModels({ vendor: "aicockpit" });
      return found.length > 0 && found;
    }, "a model of ours");
    const token = new vscode.CancellationTokenSource().token;
    const answer = await model.sendRequest([vscode.LanguageModelChatMessage.User("ping")], {}, token);
    let text = "";
    for await (const piece of answer.text) text += piece;
    assert.match(text, /tok0/);
  },
  "activation is quick": ({ services }) => {
    assert.ok(services.activationMs > 0);
  },
};

exports.run = async () => {
  const given = JSON.parse(fs.readFileSync(path.join(folder().fsPath, "../given.json"), "utf8"));
  const extension = vscode.extensions.getExtension("aicockpit.aicockpit");
  const services = await extension.activate();
  const lines = [];
  let [passed, failed] = [0, 0];
  for (const [name, test] of Object.entries(TESTS)) {
    try {
      await test({ extension, services, given });
      passed += 1;
      lines.push(`ok   ${name}`);
    } catch (error) {
      failed += 1;
      lines.push(`FAIL ${name}: ${error?.stack ?? error}`);
    }
  }
  lines.push(`activation: ${services.activationMs.toFixed(1)} ms`);
  fs.writeFileSync(path.join(folder().fsPath, "results.json"), JSON.stringify({ lines, passed, failed }));
  if (failed) throw new Error(`${failed} failed`);
};
