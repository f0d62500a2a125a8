// Drives Chromium through the status page: page.mjs CHROMIUM PAGE-URL GATEWAY-URL TOKEN [SCREENSHOT]
// Says what it did, a line each; the first thing that is not as it should be ends it with 1.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [executablePath, page_url, gateway, token, screenshot] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE = 30_000;
const complaints = [];

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("console", (line) => {
    // A browser reports every answer that is not 2xx; of these are meant: the token that was mistyped, and the gateway that
    // cannot be reached for a while.
    const is_meant = ["status of 401", "ERR_INTERNET_DISCONNECTED"].some((text) => line.text().includes(text));
    if (["error", "warning"].includes(line.type()) && !is_meant) complaints.push(`console: ${line.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`script: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(page_url) && !request.url().startsWith("data:")) complaints.push(`asked for ${request.url()}`);
  });
  await page.goto(page_url);
  await page.locator("html[data-live=yes]").waitFor({ state: "attached" });
  return page;
}

function check(holds, words) {
  if (!holds) throw new Error(words);
}

async function reads(page, selector, text) {
  await page.locator(selector, { hasText: text }).first().waitFor();
}

// axe is run by the browser's own debugger, which the page's policy does not concern.
async function look_with_axe(page, name) {
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map((v) => `${v.id}: ${v.help} (${v.nodes.map((n) => n.target.join(" ")).join(", ")})`);
  check(found.length === 0, `axe, ${name}:\n${found.join("\n")}`);
  check(passes.length > 10, `axe, ${name}: it has looked at nothing`);
  console.log(`axe finds nothing: ${name}`);
}

async function fits(page, name) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  check(wide <= room, `${name}: the page is ${wide} wide and there is room for ${room}`);
}

async function steps() {
  const page = await open({ viewport: { width: 1280, height: 1000 }, colorScheme: "light" });
  await reads(page, "#state", "Ready");
  await reads(page, "#routes tr", "orders");
  await reads(page, "#profiles article", "expires in");
  await reads(page, "#routes td[data-name='401s recovered']", "1 of 1");
  await reads(page, "#events li", "recovered");
  console.log("it loads");

  for (let n = 0; n < 20; n += 1) check((await fetch(`${gateway}/v1/orders`)).ok, "the gateway does not serve");
  await page.waitForFunction(() => parseFloat(document.querySelector("#routes td[data-name='Requests/s'] span").textContent) > 0);
  console.log("it updates by itself");

  await reads(page, "#callers th", "127.0.0.1");
  await reads(page, "#callers td[data-name='Listener']", "local");
  await page.waitForFunction(() => parseInt(document.querySelector("#callers td[data-name='Requests'] span").textContent, 10) >= 1);
  console.log("it tells who is connected");

  await page.context().setOffline(true);
  await reads(page, "#state", "Unreachable");
  await reads(page, "#facts", "the gateway does not answer");
  await page.context().setOffline(false);
  await reads(page, "#state", "Ready");
  await page.locator("html[data-live=yes]").waitFor({ state: "attached" });
  console.log("it finds the gateway again");

  const late = await page.context().newPage();
  await late.route("**/api/v1/events", (route) => route.fulfill({ status: 503, body: "{}" }));
  await late.goto(page_url);
  await late.locator("#stale").waitFor({ timeout: PATIENCE });
  await late.unroute("**/api/v1/events");
  await late.locator("html[data-live=yes]").waitFor({ state: "attached", timeout: PATIENCE });
  await late.locator("#stale").waitFor({ state: "hidden" });
  await late.close();
  console.log("it comes to its events when there is room for it");

  check((await fetch(`${gateway}/nowhere?secret=1`)).status === 404, "a fault was expected");
  await reads(page, "#events li", "no route");
  console.log("it shows a fault");

  await page.getByLabel("URL or path").fill("/v1/orders/7");
  await page.keyboard.press("Enter");
  await reads(page, "#answer", "/v1/orders/7");
  await page.getByLabel("URL or path").fill("/elsewhere");
  await page.keyboard.press("Enter");
  await reads(page, "#answer", "404 no_route");
  console.log("it explains");

  await page.getByRole("button", { name: "Switch the account of route orders" }).click();
  await page.getByLabel("New profile").selectOption("other");
  await page.locator("#switch").getByRole("button", { name: "Switch" }).click();
  await page.getByLabel("Token", { exact: true }).fill("mistyped");
  await page.keyboard.press("Enter");
  await reads(page, "#told", "changes need the admin token");
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.keyboard.press("Enter");
  await reads(page, "#told", "served with other now");
  await reads(page, "#routes tr", "switched from account");
  await reads(page, "#events li", "to \"other\"");
  const seen = await (await fetch(`${gateway}/v1/orders`)).json();
  console.log(`it switches: ${seen.seen.account}`);
  const times = await page.evaluate(() => [...document.querySelectorAll("#list time")].map((time) => time.dateTime));
  check(times.length > 2 && times.every((at, n) => n === 0 || at <= times[n - 1]), `events are not in order: ${times}`);
  if (screenshot) {
    for (let n = 0; n < 16; n += 1) {
      for (let m = 0; m < 3 + ((n * 7) % 11); m += 1) await fetch(`${gateway}/v1/orders`);
      await new Promise((done) => setTimeout(done, 2000));
    }
    await page.getByRole("button", { name: "Switch the account of route orders" }).blur();
    // The test's own folder tells a reader nothing.
    await page.evaluate(() => {
      const facts = document.getElementById("facts");
      facts.textContent = facts.textContent.replace(/\S+\/keybearer.yaml/, "/etc/keybearer/keybearer.yaml");
    });
    await page.screenshot({ path: screenshot, fullPage: true });
  }
  await look_with_axe(page, "light, with a switch");
  await page.locator("#told").getByRole("button", { name: "Undo" }).click();
  await reads(page, "#told", "served with account again");
  await reads(page, "#events li", "undone");
  await page.getByRole("button", { name: "Undo the switch of route orders" }).waitFor({ state: "hidden" });
  const again = await (await fetch(`${gateway}/v1/orders`)).json();
  console.log(`it undoes: ${again.seen.account}`);

  await page.getByRole("button", { name: "Refresh now: the token of profile account" }).click();
  await reads(page, "#told", "has a new token");
  await page.getByRole("button", { name: "Reload configuration" }).click();
  await reads(page, "#told", "The configuration was reloaded");
  console.log("it refreshes and reloads");

  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
  check(kept === '[{},{},""]', `the page keeps something: ${kept}`);
  await page.reload();
  await page.locator("html[data-live=yes]").waitFor({ state: "attached" });
  await reads(page, "#events li", "no route");
  await page.getByRole("button", { name: "Reload configuration" }).click();
  await page.getByLabel("Token", { exact: true }).waitFor();
  await look_with_axe(page, "light, asking for the token");
  await page.context().close();

  const dark = await open({ viewport: { width: 1280, height: 1000 }, colorScheme: "dark" });
  await reads(dark, "#routes tr", "orders");
  await look_with_axe(dark, "dark");
  await dark.context().close();

  for (const colorScheme of ["light", "dark"]) {
    const phone = await open({ viewport: { width: 360, height: 740 }, colorScheme });
    await reads(phone, "#routes tr", "orders");
    await fits(phone, "360 pixels");
    await look_with_axe(phone, `360 pixels, ${colorScheme}`);
    await phone.context().close();
  }
}

try {
  await steps();
  check(complaints.length === 0, complaints.join("\n"));
} catch (error) {
  console.error(error.message, complaints);
  process.exitCode = 1;
} finally {
  await browser.close();
}
