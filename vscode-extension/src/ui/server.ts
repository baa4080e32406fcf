/** Where the server is and which key goes there, out of settings, environment and secret store. */

import * as vscode from "vscode";
import { DEFAULT_ADDRESS, normalAddress, shownAddress } from "../api/address";
import type { Options } from "../api/client";
import type { Config } from "./config";

/** How a server at this address is reached. `address` need not be the one in the settings. */
export function optionsFor(config: Config, address: string, key: string): Options {
  const http = vscode.workspace.getConfiguration("http");
  return {
    address,
    key,
    caFile: config.caFile,
    remoteName: vscode.env.remoteName,
    proxy: {
      setting: config.proxy,
      editor: http.get<string>("proxySupport") === "off" ? "" : (http.get<string>("proxy") ?? ""),
      editorNoProxy: http.get<string[]>("noProxy") ?? [],
      env: process.env,
    },
  };
}

/** The name under which the key of an address is kept; each address has its own. Never throws. */
export function secretName(address: string): string {
  return `aicockpit.key ${spelled(address)}`;
}

/** The one spelling of an address; as it was written where it is none, without a password in it. */
export function spelled(address: string): string {
  try {
    return normalAddress(address);
  } catch {
    return shownAddress(address);
  }
}

/** Is it what the settings say when nobody has set an address? */
export function isDefault(address: string): boolean {
  return spelled(address) === DEFAULT_ADDRESS;
}
