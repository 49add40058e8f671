"""Zero-shot accuracy of the embedded base model on handwritten digits in each visual domain.

It is what the strengths in ``task_streams/scenarios/domains.py`` were chosen by: a domain of ``digits_dil`` must start
between 25 % and 75 %, or there is nothing to learn or nothing to build on.

    python benchmarks/domain_accuracy.py                                 every domain, 40 items a class
    python benchmarks/domain_accuracy.py --domains noisy --strength 40 --strength 80
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

from clrft.base_model import default_model_path
from eval.score import score
from methods.model.config import Decoding, ModelConfig
from methods.model.policy import Policy, load_policy
from task_streams.datasets.digits import digits
from task_streams.probes.glyphs import DIGITS
from task_streams.prompt import request
from task_streams.scenarios.domains import DOMAINS, Domain
from task_streams.scenarios.draw import shuffled_classes

LABELS = tuple(sorted(DIGITS))
SEED = 42  # of which digits are asked
BATCH = 100
FAIR = (0.25, 0.75)


def main() -> None:
    """Print one line per domain: accuracy over ten classes, the worst and the best class."""
    args = arguments().parse_args()
    policy = load_policy(ModelConfig(dtype="float32"), args.model)
    for name in args.domains or DOMAINS:
        for strength in args.strength or [DOMAINS[name].strength]:
            started = time.perf_counter()
            domain = replace(DOMAINS[name], strength=strength)
            scores = class_accuracies(policy, domain, args.per_class)
            mean = sum(scores.values()) / len(scores)
            worst, best = min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)
            fair = "fair" if FAIR[0] <= mean <= FAIR[1] else "NOT FAIR"
            print(
                f"{name:10} {strength:7g}  {mean:6.1%}  {fair:8}  worst {worst} {scores[worst]:.0%}, "
                f"best {best} {scores[best]:.0%}  ({time.perf_counter() - started:.0f} s)",
                flush=True,
            )


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(default_model_path()), help="checkpoint (default: the embedded model)")
    parser.add_argument("--domains", nargs="*", choices=sorted(DOMAINS), help="domains (default: all)")
    parser.add_argument("--strength", type=float, action="append", help="instead of the domain's own; repeatable")
    parser.add_argument("--per-class", type=int, default=40, help="digits per class (default: 40)")
    return parser


def class_accuracies(policy: Policy, domain: Domain, per_class: int) -> dict[str, float]:
    """Accuracy of each class with all ten labels in the prompt, greedy decoding."""
    of_class = shuffled_classes(digits(domain), SEED)
    items = [example for label in LABELS for example in of_class[label][:per_class]]
    completions: list[str] = []
    for start in range(0, len(items), BATCH):
        requests = [request(example, LABELS) for example in items[start : start + BATCH]]
        completions += policy.generate(requests, Decoding(max_new_tokens=32))
    right: dict[str, Sequence[bool]] = {label: [] for label in LABELS}
    for example, completion in zip(items, completions, strict=True):
        judged = score(completion, example.label, LABELS)
        right[example.label] = [*right[example.label], judged.correct]
    return {label: sum(scores) / len(scores) for label, scores in right.items()}


if __name__ == "__main__":
    main()
