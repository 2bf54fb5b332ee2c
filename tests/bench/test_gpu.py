import pytest
import torch

from bench import gpu


def test_percentiles_interpolate() -> None:
    assert gpu.percentiles([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == {"p20": 2.0, "p50": 3.5, "p80": 5.0}
    assert gpu.percentiles([7.0]) == {"p20": 7.0, "p50": 7.0, "p80": 7.0}


def test_bytes_of_cam_map() -> None:
    # 2 images of 3 channels of 4 x 5 bfloat16, 2 x 3 weights, 2 maps of 224 x 224, both float32.
    expected = 2 * 3 * 20 * 2 + 2 * 3 * 4 + 2 * 224 * 224 * 4
    assert gpu.cam_map_bytes(batch=2, channels=3, source=(4, 5), item_size=2) == expected


@pytest.mark.parametrize(("one", "cache"), [(1, 50), (50, 50), (1000, 50)])
def test_rotated_inputs_exceed_three_caches_between_two_uses(one: int, cache: int) -> None:
    copies = gpu.copies_past_cache(one, cache)
    assert copies >= 2
    assert (copies - 1) * one >= 3 * cache


def test_parts_are_chosen_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.parse(["--parts", "tests,kernels"]).parts == ["tests", "kernels"]
    assert gpu.parse([]).parts == ["tests", "ceilings", "kernels"]
    with pytest.raises(SystemExit):
        gpu.parse(["--parts", "tests,speed"])
    assert "unknown part speed; valid: tests, ceilings, kernels" in capsys.readouterr().err


def test_help_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--help"])
    assert stopped.value.code == 0
    assert "--parts" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_without_a_device_it_says_so() -> None:
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without NVML")
def test_conditions_are_null_where_nvml_is_absent() -> None:
    with gpu.watched() as conditions:
        pass
    assert conditions
    assert set(conditions.values()) == {None}
