"""Cancel inside an evaluation: looked for after every block, with Python never far ahead of the GPU's queue."""

import queue
import threading
from types import SimpleNamespace

import pytest
import torch
from support import tiny
from support.golden import Golden


class Card:
    """A GPU's queue as a thread: it computes a block when the test lets it, and events are reached in order."""

    def __init__(self, monkeypatch):
        self.work, self.finished, self.go = queue.Queue(), 0, threading.Semaphore(0)
        self.img = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))
        card = self

        class Event:
            def __init__(self, blocking):
                self.reached = threading.Event()

            def record(self, stream):
                card.work.put(self.reached.set)

            def synchronize(self):
                assert self.reached.wait(60)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        self.thread = threading.Thread(target=self.compute, daemon=True)
        self.thread.start()

    def compute(self):
        while (task := self.work.get()) is not None:
            task()

    def block(self):
        def task():
            assert self.go.acquire(timeout=60)
            self.finished += 1

        self.work.put(task)


@pytest.fixture
def card(monkeypatch):
    card = Card(monkeypatch)
    yield card
    card.go.release(1000)
    card.work.put(None)
    card.thread.join()


def test_python_stays_within_two_blocks_of_the_card(comfyui, card):
    from steadydancer.dancer.cancel import AHEAD, prompt_cancel

    look, ahead = prompt_cancel(), []

    def evaluate():
        for index in range(40):
            card.block()
            look({"img": card.img, "block_index": index})
            ahead.append(index + 1 - card.finished)

    python = threading.Thread(target=evaluate)
    python.start()
    for _ in range(40):
        card.go.release()
    python.join(60)
    assert len(ahead) == 40 and max(ahead) <= AHEAD


def test_cancel_ends_the_run_with_blocks_still_to_come(comfyui, card):
    import comfy.model_management as mm
    from steadydancer.dancer.cancel import AHEAD, prompt_cancel

    look, given, ended = prompt_cancel(), [], []

    def evaluate():
        try:
            for index in range(40):
                card.block()
                given.append(index)
                look({"img": card.img, "block_index": index})
        except mm.InterruptProcessingException:
            ended.append(True)

    python = threading.Thread(target=evaluate)
    python.start()
    card.go.release(5)
    while card.finished < 5:
        pass
    mm.interrupt_current_processing()
    try:
        card.go.release()  # the block that is being computed comes to its end
        python.join(60)
        assert ended and len(given) <= 6 + AHEAD
    finally:
        mm.interrupt_current_processing(False)


def test_a_recorded_graph_is_not_waited_for(comfyui, card, monkeypatch):
    from steadydancer.dancer.cancel import prompt_cancel

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    look = prompt_cancel()
    for index in range(10):
        card.block()
        assert look({"img": card.img, "block_index": index}) == {"img": card.img}


@pytest.mark.parametrize("sampler", ["euler", "ours"])
def test_steadydancer_is_cancelled_inside_a_step_by_any_sampler(comfyui, tmp_path, sampler):
    import comfy.model_management as mm
    import comfy.samplers
    from steadydancer.dancer.sampling import flow_unipc_sampler
    from steadydancer.loaders import build

    model = build.load_one(str(tiny.write_steadydancer(tmp_path / "dancer.safetensors")))
    golden, called, seen = Golden(), [], []

    def other(args):  # a patch of another node stays in place
        seen.append(args["block_index"])
        return {"img": args["img"]}

    model = model.clone()
    model.set_model_patch(other, "double_block")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(golden.conditionings(model)[0], [])
    guider.set_cfg(1.0)
    chosen = comfy.samplers.ksampler("euler") if sampler == "euler" else flow_unipc_sampler()
    hook = model.model.diffusion_model.blocks[0].register_forward_hook(
        lambda *_: called.append(1) or mm.interrupt_current_processing()
    )
    try:
        with torch.inference_mode(), pytest.raises(mm.InterruptProcessingException):
            zeros = torch.zeros_like(golden.x)
            guider.sample(golden.x, zeros, chosen, torch.tensor([0.9, 0.5, 0.0]), disable_pbar=True, seed=0)
    finally:
        hook.remove()
        mm.interrupt_current_processing(False)
    assert len(called) == 1 and seen == [0]
