// Use the page as a person would, in headless Chromium: `node browser/page.mjs URL FOLDER`.
// Prints what was seen as JSON; the test that started us judges it.  Screenshots go to FOLDER.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, folder] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });

const seen = { lengths: [], violations: {}, errors: [] };

async function open(options) {
  const page = await (await browser.newContext(options)).newPage();
  // A machine under load is slow, but not for ever.
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("console", (message) => {
    if (message.text().includes("Content Security Policy")) seen.errors.push(message.text());
  });
  await page.goto(url);
  // The composer takes the focus; keys before that would be lost.
  await page.locator("textarea:focus").waitFor();
  return page;
}

const send = (page) => page.getByRole("button", { name: "Send" });

async function look(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  seen.violations[name] = violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`);
  await page.screenshot({ path: `${folder}/${name}.png` });
}

async function ask(page, text) {
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

const page = await open({ colorScheme: "light", viewport: { width: 1100, height: 700 } });
await look(page, "empty");
// The composer has the focus: nothing but the keyboard is used.
await ask(page, "Hello");
await page.locator("article.assistant").waitFor();
for (let tries = 0; tries < 200 && !(await send(page).isVisible()); tries++) {
  const length = (await page.locator("article.assistant").innerText({ timeout: 5000 }).catch(() => "")).length;
  if (length !== seen.lengths.at(-1)) seen.lengths.push(length);
  await page.waitForTimeout(20);
}
await send(page).waitFor();
await look(page, "light");

await page.reload();
seen.kept = await page.locator("article.assistant").innerText();

await page.getByLabel("Message").focus();
await ask(page, "And now at length");
await page.locator("article.assistant").nth(1).waitFor();
await page.keyboard.press("Escape");
await send(page).waitFor({ timeout: 2000 });
seen.stopped = await page.locator("article.assistant").nth(1).innerText();

await page.route("**/api/chat", (route) => route.abort());
await ask(page, "Is anybody there?");
seen.offline = await page.getByRole("alert").innerText();
await look(page, "offline");
await page.unroute("**/api/chat");
await page.getByRole("button", { name: "Try again" }).click();
await page.getByRole("alert").waitFor({ state: "detached" });
await send(page).waitFor();
seen.retried = await page.locator("article").last().innerText();

const dark = await open({ colorScheme: "dark", viewport: { width: 1100, height: 700 } });
await ask(dark, "Hello");
await dark.locator("article.assistant").waitFor();
await send(dark).waitFor();
await look(dark, "dark");

// What a real model writes, which the simulated one does not.
const told = [
  "Use a **generator**, which keeps nothing:\n\n",
  "```python\ndef squares(most: int):\n    # One at a time.\n    for n in range(most):\n        yield n * n\n```\n\n",
  "| `most` | squares |\n|---|---|\n| 3 | 0, 1, 4 |\n\n1. [Python](https://www.python.org) has them built in.\n",
].map((delta) => `data: ${JSON.stringify({ delta })}\n\n`);
for (const colorScheme of ["light", "dark"]) {
  const written = await open({ colorScheme, viewport: { width: 1100, height: 700 } });
  const body = `${told.join("")}event: done\ndata: {}\n\n`;
  await written.route("**/api/chat", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await ask(written, "How do I square numbers in Python?");
  await written.locator("article.assistant table").waitFor();
  await send(written).waitFor();
  await look(written, `markdown-${colorScheme}`);
}

const phone = await open({ colorScheme: "light", viewport: { width: 390, height: 844 }, isMobile: true });
await ask(phone, "Hello");
await phone.locator("article.assistant").waitFor();
await send(phone).waitFor();
await look(phone, "phone");
seen.phoneScrollsSideways = await phone.evaluate(
  () => document.documentElement.scrollWidth > document.documentElement.clientWidth,
);

await browser.close();
console.log(JSON.stringify(seen));
