"""Values that the parameters refused before they were made of groups (commit acf4312)."""

import json
from pathlib import Path

import pytest

from lib.config import NOTEBOOK_PARAMS, load_params
from lib.errors import ParamsError

REFUSED = json.loads(Path(__file__).with_name("refusals.json").read_text())


def refused_in_one_line(notebook, values):
    with pytest.raises(ParamsError) as caught:
        load_params(**{"notebook": notebook} | values)
    return "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED["alone"])
def test_a_value_that_was_refused_is_refused(name):
    for notebook in REFUSED["alone"][name]["notebooks"]:
        for value in REFUSED["alone"][name]["refused"]:
            assert refused_in_one_line(notebook, {name: value}), (notebook, value)


@pytest.mark.parametrize(("notebook", "values"), REFUSED["together"])
def test_values_that_contradict_each_other_are_refused(notebook, values):
    assert refused_in_one_line(notebook, values)


@pytest.mark.parametrize("notebook", NOTEBOOK_PARAMS)
def test_every_parameter_says_what_it_means(notebook):
    for name, field in NOTEBOOK_PARAMS[notebook].model_fields.items():
        assert field.description, name
