#!/usr/bin/env bash
# The main job on a real model: fifty pairs to a vector, the vector on a grid, the grid as a report. Twice.
# Results go to ./demo; an interrupted run goes on where it stopped.
set -euo pipefail

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

mkdir -p demo
run steerkit extract --pairs abstention --out demo/abstain.safetensors
run steerkit extract --pairs brevity --out demo/brief.safetensors
run steerkit sweep --vector demo/abstain.safetensors --layers 12,14 --strengths=-1,1 --control-strengths=1 \
    --suite abstention --limit 48 --max-new-tokens 40 --out demo/abstention
run steerkit sweep --vector demo/brief.safetensors --layers 8,12 --strengths 1,2 --control-strengths=2 \
    --suite brevity:1 --limit 32 --max-new-tokens 128 --out demo/brevity

cat <<'NEXT'

The vectors and the two reports are in ./demo: open demo/abstention/report.html and demo/brevity/report.html.
What to try next (after `source .venv/bin/activate`):
  steerkit chat --steer demo/abstain.safetensors@layer=14,strength=1      then turn it: /strength 1.5
  steerkit generate --compare --steer demo/brief.safetensors@layer=12,strength=2 "What is 12 plus 30? Explain."
  steerkit sweep --vector demo/abstain.safetensors --layers 10:14:2 --strengths=-1:1.5:0.5 --out runs/mine
  steerkit sweep --help
NEXT
