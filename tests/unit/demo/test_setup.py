import pytest
from demo.setup import Images, Settings, check_images
from demo.shell import DemoError


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("localhost/op:dev", ["image.repository=localhost/op", "image.tag=dev"]),
        ("reg:5000/team/op", ["image.repository=reg:5000/team/op"]),
        ("reg:5000/op:1.2", ["image.repository=reg:5000/op", "image.tag=1.2"]),
        (
            "reg/op:1@sha256:ab",
            ["image.repository=reg/op", "image.tag=1", "image.digest=sha256:ab"],
        ),
    ],
)
def test_an_image_name_becomes_the_charts_values(name: str, values: list[str]) -> None:
    """A registry's port must not be taken for a tag."""
    given = Images(name, "workload").chart_values
    assert [value for value in given if not value.startswith("--set")] == values


def test_the_local_cluster_is_the_default() -> None:
    """`make demo` alone must never touch the cluster that kubectl points to."""
    assert Settings.from_environment({}).local


def test_another_cluster_is_refused_with_what_to_write() -> None:
    """A typo must not fall back to anything."""
    with pytest.raises(DemoError, match="write local, or current"):
        Settings.from_environment({"CLUSTER": "prod"})


@pytest.mark.parametrize(
    ("environment", "works"),
    [
        ({}, False),
        ({"IMAGE": "a"}, False),
        ({"WORKLOAD_IMAGE": "b"}, False),
        ({"IMAGE": "a", "WORKLOAD_IMAGE": "b"}, True),
        ({"REGISTRY": "r"}, True),
        ({"IMAGE": "a", "REGISTRY": "r"}, True),
    ],
)
def test_a_cluster_of_ones_own_needs_images_it_can_pull(
    environment: dict[str, str], *, works: bool
) -> None:
    """It cannot pull what was built on this machine: say so before anything is touched."""
    settings = Settings.from_environment({"CLUSTER": "current"} | environment)
    if works:
        check_images(settings)
    else:
        with pytest.raises(DemoError, match="REGISTRY="):
            check_images(settings)
