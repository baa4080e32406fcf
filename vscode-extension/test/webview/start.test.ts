// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ConversationHead } from "../../src/features/chat/protocol";
import { bench, chatState, turn } from "./bench";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

describe("earlier chats", () => {
  const heads: ConversationHead[] = [
    { id: "c1", title: "Now", at: 0, turns: 1 },
    { id: "c2", title: "Before", at: 0, turns: 3 },
  ];
  const open = () => {
    const on = bench(chatState({ conversations: heads }));
    on.tell({ type: "showHistory" });
    return on;
  };

  it("take the page's place, with the search focused, and go with Escape", () => {
    const on = open();
    expect(on.find(".talk").hidden).toBe(true);
    expect(document.activeElement).toBe(on.find("input[type=search]"));
    expect(on.find(".conversations").textContent).toContain("3 questions");
    expect(on.find("[aria-current=true]").textContent).toContain("Now");
    on.key(on.find("input[type=search]"), "Escape");
    expect(on.find(".history").hidden).toBe(true);
    expect(document.activeElement).toBe(on.box);
  });

  it("are searched by the extension; the list stays until it answers", () => {
    const on = open();
    const search = on.find<HTMLInputElement>("input[type=search]");
    search.value = "bef";
    search.dispatchEvent(new Event("input"));
    vi.advanceTimersByTime(200);
    expect(on.of("searchConversations")).toEqual([{ type: "searchConversations", query: "bef", requestNumber: 1 }]);
    expect(on.all(".conversations li")).toHaveLength(2);
    on.tell({ type: "conversations", requestNumber: 1, items: heads.slice(1) });
    expect(on.all(".conversations li")).toHaveLength(1);
    on.tell({ type: "conversations", requestNumber: 1, items: [] });
    expect(on.find(".history .note").textContent).toBe("No chat has these words.");
  });

  it("are opened, exported and walked through by key", () => {
    const on = open();
    const search = on.find("input[type=search]");
    on.key(search, "ArrowDown");
    expect(document.activeElement?.textContent).toContain("Now");
    on.key(document.activeElement as HTMLElement, "ArrowDown");
    on.key(document.activeElement as HTMLElement, "ArrowDown");
    expect(document.activeElement?.textContent).toContain("Before");
    on.key(document.activeElement as HTMLElement, "x");
    on.button("Export Before").click();
    (document.activeElement as HTMLElement).click();
    expect(on.of("exportConversation")).toEqual([{ type: "exportConversation", id: "c2" }]);
    expect(on.of("openConversation")).toEqual([{ type: "openConversation", id: "c2" }]);
    expect(on.find(".history").hidden).toBe(true);
  });

  it("are renamed in place", () => {
    const on = open();
    on.button("Rename Before").click();
    const box = on.find<HTMLInputElement>(".conversations li > input");
    box.value = "After";
    on.tell({ type: "conversations", requestNumber: 0, items: [...heads] });
    on.key(box, "Enter");
    expect(on.of("renameConversation")).toEqual([{ type: "renameConversation", id: "c2", title: "After" }]);
    expect(on.find(".conversations").textContent).toContain("After");
    on.button("Rename After").click();
    on.key(on.find(".conversations li > input"), "Escape");
    expect(on.of("renameConversation")).toHaveLength(1);
    expect(on.find(".history").hidden).toBe(false);
  });

  it("are deleted with a way back", () => {
    const on = open();
    on.button("Delete Before").click();
    expect(on.of("deleteConversation")).toEqual([{ type: "deleteConversation", id: "c2" }]);
    expect(on.all(".conversations li")).toHaveLength(1);
    expect(on.find(".notice").textContent).toContain("Deleted “Before”.");
    on.button("Undo").click();
    expect(on.of("restoreConversation")).toEqual([{ type: "restoreConversation", id: "c2" }]);
    expect(on.find(".notice").hidden).toBe(true);
    on.button("Delete Now").click();
    expect(on.find(".history .note").textContent).toContain("No earlier chats");
  });
});

describe("before the first question", () => {
  it("shows what can be done; an example goes into the box", () => {
    const on = bench(chatState());
    const [example] = on.all(".example");
    example?.click();
    expect(on.box.value).toBe(example?.textContent);
    on.tell({ type: "turnStarted", turn: turn("t") });
    expect(on.find(".empty").hidden).toBe(true);
  });

  it("tells how warm the folder is, or offers to keep it warm", () => {
    const on = bench(chatState());
    on.button("Keep this folder warm").click();
    expect(on.of("command")).toEqual([{ type: "command", name: "workspace.sync" }]);
    const words = (["syncing", "cold", "warming", "warm", "off", "failed"] as const).map((state) => {
      on.tell({ type: "folder", folder: { name: "repo", state, share: 0.63, why: "Because." } });
      return on.find(".folder-line").textContent;
    });
    expect(words[0]).toBe("repo: files are being sent 63 %.");
    expect(words[2]).toContain("warming 63 %");
    expect(words[3]).toContain("is warm");
    expect(words[5]).toBe("repo could not be kept warm. Because.");
  });

  it("lists the last chats", () => {
    const conversations = ["a", "b", "c", "d"].map((id) => ({ id, title: id, at: Date.now(), turns: 1 }));
    const on = bench(chatState({ conversations }));
    expect(on.all(".recent li")).toHaveLength(4);
    on.find(".recent button").click();
    expect(on.of("openConversation")).toEqual([{ type: "openConversation", id: "a" }]);
    on.button("All earlier chats").click();
    expect(on.find(".history").hidden).toBe(false);
  });

  it.each([
    ["no_key", "Enter the key"],
    ["unauthorized", "Enter the key"],
    ["offline", "Check the connection"],
    ["no_model", "Check the connection"],
  ] as const)("says on top what is wrong: %s", (kind, cure) => {
    const on = bench(chatState({ connection: { kind, why: "", fix: "Do this." } }));
    expect(on.find(".banner").hidden).toBe(false);
    expect(on.find(".banner").textContent).toMatch(/server.*Do this\./);
    on.button(cure).click();
    expect(on.of("command")).toHaveLength(1);
    on.tell({ type: "connection", connection: { kind: "ready", why: "", fix: "" } });
    expect(on.find(".banner").hidden).toBe(true);
  });

  it("does not say twice what the last answer says", () => {
    const connection = { kind: "offline", why: "Nothing listens.", fix: "" } as const;
    const failed = turn("t", { ending: { fault: { message: "Nothing listens.", fix: "Start it." } } });
    const on = bench(chatState({ connection, current: { id: "c", title: "t", turns: [failed] } }));
    expect(on.find(".banner").hidden).toBe(true);
    on.tell({ type: "turnStarted", turn: turn("t", { ending: undefined }), from: "t" });
    expect(on.find(".banner").hidden).toBe(false);
  });

  it("runs a notice's action", () => {
    const on = bench(chatState());
    on.tell({ type: "notice", text: "Replaced.", action: { label: "Bring back", token: "x1" } });
    on.button("Bring back").click();
    expect(on.of("act")).toEqual([{ type: "act", token: "x1" }]);
  });

  it("keeps a notice while it is being read", () => {
    const on = bench(chatState());
    on.tell({ type: "notice", text: "Read me." });
    on.find(".notice").dispatchEvent(new Event("mouseenter"));
    vi.advanceTimersByTime(60_000);
    expect(on.find(".notice").hidden).toBe(false);
    on.find(".notice").dispatchEvent(new Event("mouseleave"));
    vi.advanceTimersByTime(60_000);
    expect(on.find(".notice").hidden).toBe(true);
  });
});
