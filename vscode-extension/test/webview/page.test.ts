// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Page } from "../../src/webview/chat/page";
import { bench, chatState, mention, turn } from "./bench";

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const talk = (...turns: ReturnType<typeof turn>[]) => chatState({ current: { id: "c1", title: "", turns } });

describe("scrolling", () => {
  function sized(on: ReturnType<typeof bench>, height: number): HTMLElement {
    const area = on.find(".area");
    Object.defineProperty(area, "scrollHeight", { value: height, configurable: true });
    Object.defineProperty(area, "clientHeight", { value: 100, configurable: true });
    return area;
  }

  it("follows the end until the person scrolls up, and again from the end on", () => {
    const on = bench(talk(turn("t", { answer: "", ending: undefined })));
    const area = sized(on, 500);
    on.tell({ type: "delta", turn: "t", at: 0, text: "a" });
    expect(area.scrollTop).toBe(500);
    area.dispatchEvent(new Event("scroll"));
    area.scrollTop = 200;
    area.dispatchEvent(new Event("scroll"));
    on.tell({ type: "delta", turn: "t", at: 1, text: "b" });
    expect(area.scrollTop).toBe(200);
    expect(on.find(".to-end").hidden).toBe(false);
    on.find(".to-end").click();
    expect(area.scrollTop).toBe(500);
    expect(on.find(".to-end").hidden).toBe(true);
  });

  it("does not move under a selection, and a new question ends that", () => {
    const on = bench(talk(turn("t", { answer: "some words", ending: undefined })));
    const area = sized(on, 500);
    area.scrollTop = 300;
    const words = on.find(".markdown p");
    const select = vi.spyOn(document, "getSelection");
    select.mockReturnValue({ isCollapsed: false, anchorNode: words } as unknown as Selection);
    on.tell({ type: "delta", turn: "t", at: 10, text: " more" });
    expect(area.scrollTop).toBe(300);
    expect(on.find(".to-end").hidden).toBe(false);
    on.tell({ type: "turnStarted", turn: turn("u") });
    expect(area.scrollTop).toBe(500);
    select.mockRestore();
  });

  it("is where it was after the page was hidden, and at the end of another chat", () => {
    const on = bench(undefined, { scroll: 120, conversation: "c1" });
    const area = sized(on, 900);
    on.tell({ type: "state", state: talk(turn("t")) });
    expect(area.scrollTop).toBe(120);
    vi.advanceTimersByTime(500);
    expect(on.saved()).toMatchObject({ scroll: 120, conversation: "c1" });
    window.dispatchEvent(new Event("resize"));
    expect(area.scrollTop).toBe(120);
    on.tell({ type: "state", state: chatState({ current: { id: "c9", title: "", turns: [turn("x")] } }) });
    expect(area.scrollTop).toBe(900);
  });
});

describe("the page", () => {
  it("says when it is ready, and asks again when it missed something", () => {
    const on = bench(talk(turn("t", { answer: "", ending: undefined })));
    expect(on.of("ready")).toHaveLength(1);
    on.tell({ type: "delta", turn: "t", at: 7, text: "x" });
    on.tell({ type: "delta", turn: "t", at: 8, text: "y" });
    expect(on.of("ready")).toHaveLength(2);
  });

  it("listens to the window, and passes over what is no message", () => {
    const on = bench();
    for (const data of [null, "text", 7, {}]) window.dispatchEvent(new MessageEvent("message", { data }));
    window.dispatchEvent(new MessageEvent("message", { data: { type: "state", state: talk(turn("t")) } }));
    expect(on.all("article")).toHaveLength(1);
  });

  it("shows another conversation's turns anew", () => {
    const on = bench(talk(turn("a"), turn("b")));
    const [, second] = on.all("article");
    on.tell({ type: "turnStarted", turn: turn("z"), from: "a" });
    expect(on.all("article").map((article) => article.dataset.turn)).toEqual(["z"]);
    expect(second?.isConnected).toBe(false);
    on.tell({ type: "state", state: chatState({ current: { id: "c2", title: "", turns: [turn("q")] } }) });
    expect(on.all("article").map((article) => article.dataset.turn)).toEqual(["q"]);
  });

  it("tells the log of its mistakes, not without end", () => {
    const on = bench(chatState());
    for (let count = 0; count < 30; count++) on.page.failed(new Error(`mistake ${count}`));
    expect(on.of("pageError")).toHaveLength(20);
    expect(on.of("pageError")[0]?.message).toContain("mistake 0");
  });

  it("draws at most once a frame, and leaves a slow page time in between", () => {
    const frames: FrameRequestCallback[] = [];
    vi.stubGlobal("requestAnimationFrame", (callback: FrameRequestCallback) => frames.push(callback));
    const root = document.createElement("div");
    const editor = { postMessage: () => undefined, getState: () => undefined, setState: () => undefined };
    const page = new Page(root, editor);
    page.receive({ type: "state", state: talk(turn("t", { answer: "", ending: undefined })) });
    page.receive({ type: "delta", turn: "t", at: 0, text: "a" });
    expect(frames).toHaveLength(1);
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 50));
    frames[0]?.(0);
    expect(root.textContent).toContain("a");
    page.receive({ type: "delta", turn: "t", at: 1, text: "b" });
    expect(frames).toHaveLength(1);
    vi.advanceTimersByTime(1_000);
    expect(frames).toHaveLength(2);
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  });

  it("gives every control a name", () => {
    const on = bench(talk(turn("t", { answer: "```sh\nls\n```", mentions: [mention("m")] })));
    on.tell({ type: "showHistory" });
    on.tell({ type: "tokens", prompt: 10, limit: 100 });
    for (const control of on.all("button, textarea, input, select, [role=img], [role=listbox], [role=group]")) {
      const name = control.getAttribute("aria-label") ?? control.textContent;
      expect(name, control.outerHTML.slice(0, 120)).toBeTruthy();
    }
  });
});
