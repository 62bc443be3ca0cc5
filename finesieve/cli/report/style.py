"""The page around what is shown: its style, for light and dark, wide screens and phones."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>finesieve report</title>
<style>
:root { --ink:#1c1917; --soft:#57534e; --line:#e7e5e4; --paper:#fafaf9; --card:#fff;
  --s1:#f1f5f9; --s2:#fef3c7; --s3:#d1fae5; --bar:#0f766e; }
@media (prefers-color-scheme: dark) { :root { --ink:#f5f5f4; --soft:#a8a29e; --line:#44403c;
  --paper:#1c1917; --card:#292524; --s1:#1e293b; --s2:#451a03; --s3:#022c22; --bar:#2dd4bf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, section { max-width: 1180px; margin: 0 auto; padding: 16px 20px; }
h1 { font-size: 1.7rem; margin: 12px 0 4px; } h2 { font-size: 1.35rem; margin: 20px 0 8px; }
h3 { font-size: 1.05rem; margin: 24px 0 4px; }
header p { color: var(--soft); } p.verdict { color: var(--ink); font-size: 1.1rem;
  border-left: 4px solid var(--bar); padding-left: 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { color: var(--soft); font-weight: 600; white-space: normal;
  vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; } td:first-child, td:last-child {
  white-space: normal; } td:last-child { min-width: 12em; }
.better { color: #15803d; font-weight: 600; } .worse { color: #dc2626; font-weight: 600; }
.tie { color: var(--soft); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr));
  gap: 16px; margin: 16px 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px; min-width: 0; } figure.wide { grid-column: 1 / -1; }
figcaption { font-weight: 600; margin-bottom: 6px; } svg { width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 13px; }
.axis { fill: var(--soft); font-size: 14px; } .bar { fill: var(--bar); }
rect.stage1, i.stage1 { fill: var(--s1); background: var(--s1); }
rect.stage2, i.stage2 { fill: var(--s2); background: var(--s2); }
rect.stage3, i.stage3 { fill: var(--s3); background: var(--s3); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 6px 0 0; font-size: .85rem;
  color: var(--soft); } .legend i { display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 6px; border: 1px solid var(--line); }
.row { display: grid; grid-template-columns: minmax(90px, 22%) 1fr 84px; gap: 10px;
  align-items: center; margin: 6px 0; font-size: .9rem; } .track { display: flex; height: 18px; }
.track b { display: block; height: 100%; } .row em { font-style: normal; text-align: right;
  font-variant-numeric: tabular-nums; }
@media (max-width: 600px) { .tick, .name { font-size: 19px; } .axis { font-size: 20px; } }
.what { color: var(--soft); font-size: .85rem; margin: 0 0 6px; }
.name { font-size: 13px; font-weight: 600; }
.none { color: var(--soft); }
ol, ul { padding-left: 22px; } li { margin: 4px 0; overflow-wrap: anywhere; }
code { background: var(--line); border-radius: 4px; padding: 1px 5px; }
</style></head><body>
{{body}}
</body></html>
"""
