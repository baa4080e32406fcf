/** Activation: makes the services and registers each feature. No logic. */

import * as vscode from "vscode";
import { Timeline } from "./features/timeline";
import * as chatView from "./ui/chatView";
import * as completion from "./ui/completion";
import { Config } from "./ui/config";
import { createConnection } from "./ui/connection";
import * as docs from "./ui/docs";
import * as edit from "./ui/edit";
import { createFolders } from "./ui/folders";
import * as menu from "./ui/menu";
import * as native from "./ui/native";
import * as panel from "./ui/panel";
import type { Services } from "./ui/services";
import * as setUp from "./ui/setUp";
import * as statusBar from "./ui/statusBar";
import * as terminal from "./ui/terminal";

/** The services, for tests in the extension host; nothing elsewhere. */
export function activate(context: vscode.ExtensionContext): (Services & { readonly activationMs: number }) | undefined {
  const began = performance.now();
  const log = vscode.window.createOutputChannel("AiCockpit", { log: true });
  const parts = { context, log, config: new Config(), timeline: new Timeline() };
  const connection = createConnection(parts);
  const folders = createFolders({ ...parts, connection });
  const services: Services = { ...parts, connection, folders };
  const completions = completion.register(services);
  context.subscriptions.push(
    log,
    connection,
    folders,
    completions,
    ...[setUp, edit, chatView, native, terminal, menu, panel, docs].map((feature) => feature.register(services)),
    statusBar.register(services, completions.snooze),
  );
  const activationMs = performance.now() - began;
  log.info(`activated in ${activationMs.toFixed(1)} ms`);
  return context.extensionMode === vscode.ExtensionMode.Test ? { ...services, activationMs } : undefined;
}
