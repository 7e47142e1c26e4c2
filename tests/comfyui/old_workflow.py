"""A workflow with nodes of the published packs, as ComfyUI's page saved it when they were installed."""

from typing import Any

Workflow = dict[str, Any]


def slot(name: str, kind: str, link: int | None = None, *, widget: bool = False) -> dict[str, Any]:
    """An input."""
    return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})


def node(
    number: int,
    node_id: str,
    at: tuple[int, int],
    inputs: list[dict[str, Any]],
    outputs: dict[str, tuple[str, list[int]]],
    values: list[Any],
) -> dict[str, Any]:
    """A node."""
    return {
        "id": number,
        "type": node_id,
        "pos": list(at),
        "size": [315, 262],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": [
            {"name": name, "type": kind, "links": links or None, "slot_index": place}
            for place, (name, (kind, links)) in enumerate(outputs.items())
        ],
        "properties": {"Node name for S&R": node_id, "cnr_id": "comfyui-jetblock-optimizer"},
        "widgets_values": values,
    }


def old_workflow() -> Workflow:
    """A picture by the fast sampler, one by the deterministic sampler with its checksum validated, and reports."""
    nodes = [
        node(1, "UNETLoader", (0, 0), [], {"MODEL": ("MODEL", [1])}, ["tiny_sd3.safetensors", "default"]),
        node(2, "TestConditioning", (0, 200), [], {"CONDITIONING": ("CONDITIONING", [2, 8])}, [3, 64]),
        node(3, "TestConditioning", (0, 400), [], {"CONDITIONING": ("CONDITIONING", [3, 9])}, [-1, 64]),
        node(4, "EmptySD3LatentImage", (0, 600), [], {"LATENT": ("LATENT", [4, 10])}, [128, 128, 1]),
        node(
            5,
            "JetBlockModelOptimizer",
            (400, 0),
            [slot("model", "MODEL", 1)],
            {"optimized_model": ("MODEL", [5, 7]), "stats": ("STRING", [16])},
            ["low", True, False],
        ),
        node(
            6,
            "JetBlockSampler",
            (800, 0),
            [
                slot("model", "MODEL", 5),
                slot("positive", "CONDITIONING", 2),
                slot("negative", "CONDITIONING", 3),
                slot("latent_image", "LATENT", 4),
                slot("seed", "INT", 17, widget=True),
            ],
            {"samples": ("LATENT", [6]), "performance_stats": ("STRING", [13])},
            [7, "randomize", 14, 3.0, "euler", "simple", 1.0, 0.5],
        ),
        node(
            7,
            "JetBlockDeterministicSampler",
            (800, 400),
            [
                slot("model", "MODEL", 7),
                slot("positive", "CONDITIONING", 8),
                slot("negative", "CONDITIONING", 9),
                slot("latent_image", "LATENT", 10),
            ],
            {"samples": ("LATENT", [11]), "checksum": ("STRING", [12]), "determinism_report": ("STRING", [])},
            [42, "fixed", 4, 3.5, "euler_ancestral", "simple", 1.0],
        ),
        node(
            8,
            "JetBlockChecksumValidator",
            (1200, 400),
            [slot("latent", "LATENT", 11), slot("expected_checksum", "STRING", 12, widget=True)],
            {"latent": ("LATENT", [14]), "matches": ("BOOLEAN", []), "validation_report": ("STRING", [15])},
            [""],
        ),
        node(9, "TestKeep", (1600, 0), [slot("value", "*", 6)], {}, ["fast"]),
        node(10, "PreviewAny", (1600, 200), [slot("source", "*", 13)], {}, []),
        node(11, "TestKeep", (1600, 400), [slot("value", "*", 14)], {}, ["exact"]),
        node(12, "TestKeep", (1600, 600), [slot("value", "*", 15)], {}, ["report"]),
        node(13, "TestKeep", (1600, 800), [slot("value", "*", 16)], {}, ["level"]),
        node(14, "PrimitiveInt", (400, 400), [], {"INT": ("INT", [17])}, [5, "fixed"]),
        node(15, "JetBlockModeSwitch", (400, 600), [], {"status": ("STRING", [18])}, ["deterministic", 42, "fixed"]),
        node(16, "PreviewAny", (1600, 1000), [slot("source", "*", 18)], {}, []),
        node(
            17,
            "JetBlockCascadeMode",
            (400, 800),
            [],
            {"selected_mode": ("STRING", []), "thinking_budget": ("INT", [19]), "analysis": ("STRING", [])},
            ["think", "Why?", 1000],
        ),
        node(18, "TestKeep", (1600, 1200), [slot("value", "*", 19)], {}, ["budget"]),
    ]
    ends = {
        1: (1, 0, 5, 0, "MODEL"),
        2: (2, 0, 6, 1, "CONDITIONING"),
        3: (3, 0, 6, 2, "CONDITIONING"),
        4: (4, 0, 6, 3, "LATENT"),
        5: (5, 0, 6, 0, "MODEL"),
        6: (6, 0, 9, 0, "LATENT"),
        7: (5, 0, 7, 0, "MODEL"),
        8: (2, 0, 7, 1, "CONDITIONING"),
        9: (3, 0, 7, 2, "CONDITIONING"),
        10: (4, 0, 7, 3, "LATENT"),
        11: (7, 0, 8, 0, "LATENT"),
        12: (7, 1, 8, 1, "STRING"),
        13: (6, 1, 10, 0, "STRING"),
        14: (8, 0, 11, 0, "LATENT"),
        15: (8, 2, 12, 0, "STRING"),
        16: (5, 1, 13, 0, "STRING"),
        17: (14, 0, 6, 4, "INT"),
        18: (15, 0, 16, 0, "STRING"),
        19: (17, 1, 18, 0, "INT"),
    }
    return {
        "last_node_id": 18,
        "last_link_id": 19,
        "nodes": nodes,
        "links": [[number, *end] for number, end in ends.items()],
        "groups": [],
        "config": {},
        "extra": {
            "ds": {"scale": 1, "offset": [0, 0]},
            # The way of two links over the page; the first of them goes with its node's input.
            "linkExtensions": [{"id": 12, "parentId": 1}, {"id": 6, "parentId": 2}],
            "reroutes": [{"id": 1, "pos": [1100, 450], "linkIds": [12]}, {"id": 2, "pos": [1400, 50], "linkIds": [6]}],
        },
        "version": 0.4,
    }
