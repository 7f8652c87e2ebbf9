from app.drafts import Draft
from quip_engine.config import CalibrationConfig, JobConfig, RecipeConfig

JOB = JobConfig("/a/model", "/resolved", RecipeConfig("waterfill", 2.35), CalibrationConfig("c4", 64, 512), seed=7)


def test_a_draft_is_found_again_with_what_was_typed(tmp_path):
    Draft(tmp_path).save(JOB, "")
    found = Draft(tmp_path).load()
    assert found is not None
    assert (found.model, found.out, found.recipe, found.seed) == (JOB.model, "", JOB.recipe, 7)


def test_no_draft_and_a_damaged_one_are_none(tmp_path):
    assert Draft(tmp_path).load() is None
    for text in ("", "[]", "{", '{"model": 1, "out": "", "recipe": {"bits": 2, "more": 1}}'):
        (tmp_path / "draft.json").write_text(text)
        assert Draft(tmp_path).load() is None


def test_the_same_draft_is_written_once(tmp_path):
    draft = Draft(tmp_path)
    draft.save(JOB, "")
    (tmp_path / "draft.json").unlink()
    draft.save(JOB, "")
    assert not (tmp_path / "draft.json").exists()
