"""DomainNet: 345 classes in 6 domains, about 410,000 training and 177,000 test images.

Layout of the original archives: ``<domain>/<class>/<image>`` and the lists ``<domain>_train.txt`` and
``<domain>_test.txt`` beside the domains, with lines ``<domain>/<class>/<image> <class number>``. Classes are named by
their folders; the numbers are only checked. Images that no list names are not used.
"""

from dataclasses import dataclass
from functools import partial

from task_streams.config import Count, SourceDilConfig
from task_streams.registry import StreamSpec
from task_streams.scenarios.classification import labelled_stream
from task_streams.sources.layout import existing_root
from task_streams.sources.listed_files import listed_domains
from task_streams.sources.records import Found

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
LAYOUT = "<domain>/<class>/<image>, <domain>_train.txt and <domain>_test.txt for each domain"
WHERE = "https://ai.bu.edu/M3SDA (fewer domains: name them in stream.domains)"


@dataclass(frozen=True, kw_only=True)
class DomainNetConfig(SourceDilConfig):
    """DomainNet, a new domain in each task; 5 shots as in RaPO (arXiv 2605.09640)."""

    root: str = "data/domainnet"
    """Path of the folder that holds the domains and their lists."""
    shots: Count | None = 5
    """Training examples per class and domain, >= 1; null = all of the training lists."""
    test_per_class: Count | None = 10
    """Test examples per class and domain, >= 1 (10: about 20,000 in all); null = the whole test lists (177,000)."""
    published = DOMAINS


def domainnet(config: DomainNetConfig) -> Found:
    """Items of every domain's two lists; raises as ``existing_root`` and ``listed_domains``."""
    lists = {domain: (f"{domain}_train.txt", f"{domain}_test.txt") for domain in config.domains or DOMAINS}
    root = existing_root(config.root, LAYOUT, WHERE, [name for domain in lists for name in (domain, *lists[domain])])
    paths = {domain: (root / train, root / test) for domain, (train, test) in lists.items()}
    return listed_domains(root, paths, "", config.on_damaged)


DIL = StreamSpec(
    DomainNetConfig,
    partial(labelled_stream, "domainnet_dil", domainnet),
    "DomainNet (345 classes, 6 domains) from its original archives and lists, a new domain in each task",
    "non-commercial research; the images remain with their owners (fair use notice of the page)",
    "Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019",
)
