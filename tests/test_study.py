import pytest

from lib.params import BaselineParams, EmbeddingParams, InstructionParams, ParamsError
from lib.study import check_teachers


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("embeding", "'embeding' is not an arm of the study; did you mean 'embedding'?"),
        ("tfidf", "'tfidf': 02_baselines is no fine-tuned arm"),
        ("pupil", "'pupil' learns from 'embedding' itself; name that one"),
        ("longer", "'longer' reads other documents or labels than 'student'"),
    ],
)
def test_a_study_is_refused_whose_teacher_cannot_teach(teacher, message):
    arms = {
        "tfidf": BaselineParams(notebook="02_baselines"),
        "embedding": EmbeddingParams(),
        "prompt": InstructionParams(),
        "pupil": EmbeddingParams(arm="pupil", teacher="embedding"),
        "longer": EmbeddingParams(num_train=7),
        "student": EmbeddingParams(teacher="prompt"),
    }
    check_teachers(arms, "params/mine")
    student = EmbeddingParams(arm="student", teacher=teacher)
    with pytest.raises(ParamsError) as caught:
        check_teachers(arms | {"student": student}, "params/mine")
    assert str(caught.value) == f"params/mine/student.yaml: teacher: {message}"


def test_in_a_study_of_sizes_a_teacher_has_to_learn():
    arms = {
        "untaught": InstructionParams(num_epochs=0, train_sizes=[8]),
        "student": EmbeddingParams(teacher="untaught", train_sizes=[8]),
    }
    with pytest.raises(ParamsError, match="'untaught' learns from nothing, so it has no run of"):
        check_teachers(arms, "params/mine")
    check_teachers(
        {name: arm.model_copy(update={"train_sizes": []}) for name, arm in arms.items()}, ""
    )
