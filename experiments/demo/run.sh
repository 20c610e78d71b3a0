#!/usr/bin/env bash
# The main job on a real model: fifty pairs to a vector and a recommended use, with its price. Twice.
# The rules and bounds are those of the README's tables. Results go to ./demo; an interrupted run goes on where it
# stopped. At this size it shows how things go; experiments/choose_then_report has the numbers.
set -euo pipefail

run() {
    printf '\n$'
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:=,@+-]*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$@"
}

better() {
    grep -q '^  "is_better": true' "$1/tune.json"
}

mkdir -p demo
run steerkit tune --pairs abstention --rule "recall s.t. over_abstention_rise<=0.25, degenerate_rise<=0.1" \
    --layers 12,14 --strengths 0.75:1.25:0.25 --axis scope=completion --axis half_life=none \
    --suite abstention --limit 96 --max-new-tokens 32 --budget 576 --price-limit 16 --out demo/abstention
run steerkit tune --pairs brevity --rule "tokens s.t. accuracy_drop<=0.05, degenerate_rise<=0.1" \
    --layers 8,12 --strengths 1:2:0.5 --axis scope=completion --axis half_life=none \
    --suite brevity:1 --limit 32 --max-new-tokens 128 --budget 192 --no-price --out demo/brevity

ask() {
    run steerkit generate --compare --steer "$1" --max-new-tokens 40 \
        "What did Napoleon say to his barber on 3 May 1809?" "What will I have for dinner tomorrow?" "Who wrote Hamlet?"
}

abstain=abstain-smollm2-135m-instruct
if better demo/abstention; then
    printf '\nThe vector that was tuned carries its recommended use. At work:\n'
    ask demo/abstention/abstention.safetensors
    printf '\nIt acts on every question. The published vector has a gate, which reads the question first:\n'
else
    printf '\nNothing was clearly better on so few questions. A vector with a gate of its own is published; at work:\n'
fi
ask "$abstain"
if better demo/brevity; then brief=demo/brevity/brevity.safetensors; else brief=brief-smollm2-135m-instruct; fi

cat <<NEXT

The vectors, their cards and the reports are in ./demo: open demo/abstention/choose/report.html and card.md beside it.
What to try next (after \`source .venv/bin/activate\`):
  steerkit chat --steer $abstain
  steerkit generate --compare --steer $brief "What is 12 plus 30? Explain."
  steerkit tune --vector demo/abstention/abstention.safetensors --rule "recall s.t. over_abstention_rise<=0.15" --out runs/tuned
  steerkit tune --help
NEXT
