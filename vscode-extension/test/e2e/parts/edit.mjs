// Ctrl+K: a streamed diff in the editor, accepted or rejected, undone in one step.
import { until } from "../harness.mjs";

const BEFORE = "def add(a, b):\n    return a + b\n";

async function ask(desk, instruction, key = "Control+K") {
  await desk.keys(key);
  const input = desk.page.locator(".quick-input-widget input").first();
  await input.waitFor({ state: "visible" });
  await desk.type(instruction, 5);
  await desk.keys("Enter");
}

/** Click the highest of these on the page, once none of them moves: lenses push lines down as they come. */
async function clickTop(found) {
  let last = "";
  let same = 0;
  await until(async () => {
    const boxes = JSON.stringify(await Promise.all((await found.all()).map((one) => one.boundingBox())));
    same = boxes === last && boxes !== "[]" ? same + 1 : 0;
    last = boxes;
    return same === 4;
  }, "lenses that stand still");
  const tops = JSON.parse(last).map((box) => box.y);
  await found.nth(tops.indexOf(Math.min(...tops))).click();
}

export default async function play({ desk, server, step, assert }) {
  await step("Ctrl+K streams an edit as a diff", async () => {
    await desk.file("main.py");
    await desk.keys("Control+Home", "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown");
    await ask(desk, "add type hints");
    await until(async () => /def add\(a: float, b: float\) -> float:/.test(await desk.editorText()), "the new line");
    await desk.page.getByText("Accept All").first().waitFor();
    assert.match(await desk.editorText(), /def add\(a, b\):\n.*def add\(a: float/);
    await desk.picture("edit");
  });
  await step("accept all keeps the new text", async () => {
    await desk.focusEditor();
    await desk.keys("Control+Enter");
    await until(async () => !/def add\(a, b\):/.test(await desk.editorText()), "the old line is gone");
    await desk.save();
    await until(
      () => desk.read("main.py").includes("def add(a: float, b: float) -> float:\n    return a + b\n"),
      "the file",
    );
    assert.ok(!desk.read("main.py").includes(BEFORE));
  });
  await step("one undo brings the old text back", async () => {
    await desk.keys("Control+Z");
    await desk.save();
    await until(() => desk.read("main.py").includes(BEFORE), "the old text");
  });
  await step("reject all leaves no trace", async () => {
    const before = await desk.settled("main.py");
    await desk.keys("Control+Home", "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown");
    await ask(desk, "make it worse");
    await until(async () => /NotImplementedError/.test(await desk.editorText()), "the new line");
    await desk.page.getByText("Reject All").first().waitFor();
    await desk.focusEditor();
    await desk.keys("Control+Backspace");
    await until(async () => !/NotImplementedError/.test(await desk.editorText()), "the new line is gone");
    await desk.save();
    assert.equal(await desk.settled("main.py"), before);
  });
  const lens = (title) => desk.page.locator(".codelens-decoration a", { hasText: title });
  const shows = (text, what) => until(async () => (await desk.editorText()).trimEnd() === text.trimEnd(), what);
  await step(
    "the whole file, block by block; a save leaves out what is not decided; one undo after a click",
    async () => {
      const before = await desk.settled("main.py");
      await desk.keys("Control+Home");
      await ask(desk, "both ends", "Control+Shift+E");
      await until(async () => (await lens(/^\s*Accept$/).count()) === 2, "two blocks");
      await desk.keys("ArrowDown"); // ends the editor's own undo step
      await desk.keys("Control+S"); // the proposed lines are not saved: the tab stays as it is
      await desk.page.getByText("Saved without the proposed lines").first().waitFor();
      assert.equal(await desk.settled("main.py"), before);
      await clickTop(lens(/^\s*Accept$/));
      await until(async () => (await lens(/^\s*Reject$/).count()) === 1, "one block");
      await clickTop(lens(/^\s*Reject$/));
      await shows(before.replace("import Cart", "import Cart, Price"), "one of two changes");
      await desk.focusEditor();
      await desk.keys("Control+Z");
      await shows(before, "the old text");
    },
  );
  await step("no lens stays behind when the editor loses the focus right after Reject All", async () => {
    const before = await desk.settled("main.py");
    await desk.keys("Control+Home");
    await ask(desk, "both ends", "Control+Shift+E");
    await until(async () => (await lens(/^\s*Accept$/).count()) === 2, "two blocks");
    await clickTop(lens("Reject All"));
    await desk.keys("F1");
    await desk.page.locator(".quick-input-widget input").first().waitFor({ state: "visible" });
    await shows(before, "the old text");
    await until(async () => (await desk.page.locator(".codelens-decoration a").count()) === 0, "no lens");
    await desk.keys("Escape");
    await desk.focusEditor();
    await desk.save();
    await until(() => desk.read("main.py") === before, "the file");
  });
  await step("Escape ends a running edit and keeps what has come", async () => {
    const before = await desk.settled("main.py");
    await server.engineSet({ token_delay: 1 });
    await desk.keys("Control+Home");
    await ask(desk, "both ends", "Control+Shift+E");
    await until(async () => /Cart, Price/.test(await desk.editorText()), "the first line");
    await desk.keys("Escape");
    await lens("Accept All").first().waitFor();
    assert.doesNotMatch(await desk.editorText(), /b \+ a/);
    await server.engineSet({ token_delay: 0 });
    await desk.keys("Control+Backspace");
    await shows(before, "the old text");
    await desk.save();
    await until(() => desk.read("main.py") === before, "the file");
  });
}
