/** Set-up and check of the connection: address, key, and a live check whose steps appear as they end. */

import * as vscode from "vscode";
import { isPrivate, parseAddress } from "../api/address";
import { type CheckParts, check, type Step } from "../api/check";
import { Fault, isAbort } from "../api/fault";
import { conclusion, report, wrap } from "../api/report";
import { inform, warn } from "./say";
import { optionsFor, secretName, spelled } from "./server";
import type { Services } from "./services";

const STEPS = 3;
// Characters of one row of a list at its usual width.
const LINE = 82;
const TITLE = "AiCockpit: Set Up";
const ICONS = { ok: "$(pass)", warn: "$(info)", fail: "$(error)" } as const;
const KEY_HELP =
  "The server prints its key when it starts (the line “Key”); `aicockpit keys create NAME` makes one that stays. It is kept in the editor's secret store.";

/** Commands setUp, setKey, forgetKey, check. */
export function register(services: Services): vscode.Disposable {
  const command = (name: string, run: () => Promise<void>) => vscode.commands.registerCommand(`aicockpit.${name}`, run);
  return vscode.Disposable.from(
    command("setUp", () => setUp(services)),
    command("setKey", () => setKey(services)),
    command("forgetKey", () => forgetKey(services)),
    command("check", () => checkAndOffer(services, 1, 1)),
  );
}

async function setUp(services: Services): Promise<void> {
  let address = services.config.url;
  for (;;) {
    const given = await askAddress(address);
    if (given === undefined) return;
    address = given;
    const key = await askKey(services, address, 2, STEPS);
    if (key === "back") continue;
    if (key === undefined) return;
    await store(services, address, key);
    if (spelled(services.config.url) !== spelled(address)) {
      const text = `AiCockpit: this workspace's own settings name another address, ${spelled(services.config.url)}, which counts here.`;
      void warn(text);
    }
    return await checkAndOffer(services, STEPS, STEPS);
  }
}

async function store(services: Services, address: string, key: Key): Promise<void> {
  if (key.text !== undefined) await storeKey(services, address, key.text);
  if (spelled(services.config.url) !== spelled(address)) await services.config.setUrl(address);
}

async function storeKey({ context }: Services, address: string, key: string): Promise<void> {
  if (key === "") await context.secrets.delete(secretName(address));
  else await context.secrets.store(secretName(address), key);
}

async function setKey(services: Services): Promise<void> {
  const { url } = services.config;
  const key = await askKey(services, url, 1, 1);
  if (key === undefined || key === "back" || key.text === undefined) return;
  await storeKey(services, url, key.text);
  const state = await services.connection.refresh();
  if (state.kind === "ready") void inform(`AiCockpit: connected to ${spelled(url)}.`);
  else await checkAndOffer(services, 1, 1);
}

async function forgetKey(services: Services): Promise<void> {
  const { url } = services.config;
  await storeKey(services, url, "");
  void inform(`AiCockpit: the key for ${spelled(url)} is forgotten.`);
}

async function askAddress(before: string): Promise<string | undefined> {
  const box = vscode.window.createInputBox();
  box.title = TITLE;
  box.step = 1;
  box.totalSteps = STEPS;
  box.value = before;
  box.prompt = "Address of the server, as `aicockpit serve` prints it.";
  box.placeholder = "http://127.0.0.1:8000";
  box.ignoreFocusOut = true;
  return await answered(box, (text) => {
    try {
      parseAddress(text);
      return "";
    } catch (error) {
      return error instanceof Fault ? `${error.message} ${error.fix}` : String(error);
    }
  }).then((text) => (text === undefined || text === "back" ? undefined : spelled(text)));
}

/** `text` undefined: the one that is stored already; empty: none is needed. */
interface Key {
  readonly text: string | undefined;
}

async function askKey(
  { context }: Services,
  address: string,
  step: number,
  steps: number,
): Promise<Key | "back" | undefined> {
  const stored = (await context.secrets.get(secretName(address))) !== undefined;
  const box = vscode.window.createInputBox();
  box.title = steps === 1 ? "AiCockpit: Key" : TITLE;
  if (steps > 1) {
    box.step = step;
    box.totalSteps = steps;
    box.buttons = [vscode.QuickInputButtons.Back];
  }
  box.password = true;
  box.ignoreFocusOut = true;
  box.placeholder = stored ? "Empty: keep the stored key" : "Empty: the server asks for none";
  box.prompt = `Key for ${spelled(address)}. ${KEY_HELP}`;
  const text = await answered(box, (written) =>
    /[^\x21-\x7e]/.test(written.trim()) ? "A key has no spaces or special letters." : "",
  );
  if (text === undefined || text === "back") return text;
  return { text: text.trim() === "" && stored ? undefined : text.trim() };
}

/** What was typed, `back`, or undefined when the box was closed. A wrong input stays in the box with its reason. */
function answered(box: vscode.InputBox, wrong: (text: string) => string): Promise<string | undefined> {
  return new Promise((resolve) => {
    let result: string | undefined;
    box.onDidAccept(() => {
      box.validationMessage = wrong(box.value);
      if (box.validationMessage !== "") return;
      result = box.value;
      box.hide();
    });
    box.onDidChangeValue(() => {
      if (box.validationMessage) box.validationMessage = wrong(box.value);
    });
    box.onDidTriggerButton(() => {
      result = "back";
      box.hide();
    });
    box.onDidHide(() => {
      box.dispose();
      resolve(result);
    });
    box.show();
  });
}

interface Row extends vscode.QuickPickItem {
  readonly run?: () => Promise<void> | Thenable<unknown>;
}

/** The check in a list that fills as it goes, and below it what can be done about it. */
async function checkAndOffer(services: Services, step: number, steps: number): Promise<void> {
  const stop = new AbortController();
  const list = vscode.window.createQuickPick<Row>();
  list.title = steps === 1 ? "AiCockpit: Check the Connection" : TITLE;
  if (steps > 1) {
    list.step = step;
    list.totalSteps = steps;
  }
  list.placeholder = `Checking ${spelled(services.config.url)} …`;
  list.busy = true;
  list.ignoreFocusOut = true;
  list.matchOnDescription = true;
  const chosen = new Promise<Row | undefined>((resolve) => {
    let row: Row | undefined;
    list.onDidAccept(() => {
      row = list.selectedItems[0];
      if (row?.run !== undefined) list.hide();
    });
    list.onDidHide(() => {
      stop.abort();
      resolve(row?.run === undefined ? undefined : row);
    });
  });
  list.show();
  const found = await run(services, stop.signal, (all) => {
    list.items = all.flatMap(rowsOf);
  });
  if (found !== undefined) {
    const { text } = conclusion(found);
    list.placeholder = text;
    list.busy = false;
    const actions = actionsOf(services, found);
    list.items = [...actions, { label: "Steps", kind: vscode.QuickPickItemKind.Separator }, ...found.flatMap(rowsOf)];
    list.activeItems = actions.slice(0, 1);
  }
  const row = await chosen;
  list.dispose();
  await row?.run?.();
}

/** The steps, also in the log; undefined when the user has closed the list. */
async function run(
  services: Services,
  signal: AbortSignal,
  show: (all: readonly Step[]) => void,
): Promise<readonly Step[] | undefined> {
  const { config, log, context, connection } = services;
  const key = (await context.secrets.get(secretName(config.url))) ?? "";
  const parts: CheckParts = { completionModel: config.completionModel, signal };
  const all: Step[] = [];
  log.info(`Checking ${spelled(config.url)}`);
  try {
    for await (const step of check(optionsFor(config, config.url, key), parts)) {
      all.push(step);
      log.info(report(step));
      show(all);
    }
  } catch (error) {
    if (isAbort(error)) return undefined;
    throw error;
  }
  void connection.refresh();
  return all;
}

/** A row of the list is one line and is cut off: what takes more gets more rows. */
function rowsOf(step: Step): readonly Row[] {
  const title = `${ICONS[step.state]} ${step.title}`;
  const [first = "", ...more] = wrap(step.what, LINE - step.title.length);
  const rest = [...more, ...wrap(step.fix, LINE)];
  return [
    { label: title, description: first, alwaysShow: true },
    ...rest.map((line) => ({ label: "$(blank)", description: line, alwaysShow: true })),
  ];
}

function actionsOf(services: Services, steps: readonly Step[]): readonly Row[] {
  const { state } = conclusion(steps);
  const last = steps.at(-1);
  const again: Row = { label: "$(refresh) Try again", run: () => checkAndOffer(services, 1, 1) };
  const settings: Row = {
    label: "$(gear) Open settings",
    run: () => vscode.commands.executeCommand("workbench.action.openSettings", "aicockpit"),
  };
  const log: Row = { label: "$(output) Show the log", run: async () => services.log.show() };
  if (state !== "fail") return [...whenGood(), settings, again, log];
  return [...repairs(services, last), again, settings, log];
}

function whenGood(): readonly Row[] {
  const done: Row = { label: "$(check) Done", description: "Type in a file: completions appear.", run: async () => {} };
  const warm: Row = {
    label: "$(flame) Keep this folder warm",
    description: "Answers then begin at once and know your code.",
    run: () => vscode.commands.executeCommand("aicockpit.workspace.sync"),
  };
  return vscode.workspace.workspaceFolders?.length ? [warm, done] : [done];
}

function repairs(services: Services, step: Step | undefined): readonly Row[] {
  const { suggestion } = step ?? {};
  const rows: Row[] = [];
  if (suggestion !== undefined) {
    rows.push({ label: `$(arrow-right) Use ${suggestion}`, run: () => moveTo(services, suggestion) });
  }
  if (step?.offer === "caFile") {
    rows.push({ label: "$(file) Choose a certificate file", run: () => chooseCertificates(services) });
  }
  if (step?.offer === "key") rows.push({ label: "$(key) Enter the key", run: () => setKey(services) });
  if (step?.offer === "address") rows.push({ label: "$(edit) Change the address", run: () => setUp(services) });
  if (step?.offer === "proxy") {
    rows.push({
      label: "$(gear) Change the proxy",
      run: () => vscode.commands.executeCommand("workbench.action.openSettings", "aicockpit.proxy"),
    });
  }
  return rows;
}

/** The same server under another address: its key goes along, but for where anybody on the way could read it. */
async function moveTo(services: Services, address: string): Promise<void> {
  const key = await services.context.secrets.get(secretName(services.config.url));
  if (key !== undefined && isPrivate(address)) await storeKey(services, address, key);
  await services.config.setUrl(address);
  await checkAndOffer(services, 1, 1);
}

async function chooseCertificates(services: Services): Promise<void> {
  const picked = await vscode.window.showOpenDialog({
    title: "Certificates to trust (PEM)",
    filters: { Certificates: ["pem", "crt", "cer"], "All files": ["*"] },
  });
  if (picked?.[0] === undefined) return;
  const settings = vscode.workspace.getConfiguration("aicockpit");
  await settings.update("caFile", picked[0].fsPath, vscode.ConfigurationTarget.Global);
  await checkAndOffer(services, 1, 1);
}
