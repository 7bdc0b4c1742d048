from training.phase import STARTING, Phase


def test_phases_follow_each_other_and_what_is_inside_comes_and_goes() -> None:
    phase = Phase()
    assert (str(phase), phase.turn, phase.all_moves) == (STARTING, 0, 0)
    phase.enter("forward")
    assert (str(phase), phase.turn, phase.all_moves) == ("forward", 1, 1)
    with phase.inside("validation"):
        began = phase.since
        with phase.inside("source a"):
            assert str(phase) == "forward > validation > source a"
        phase.move()
        assert (str(phase), phase.turn, phase.all_moves) == ("forward > validation", 1, 5)
        assert phase.moved_at >= phase.since >= began
    assert (str(phase), phase.turn, phase.all_moves) == ("forward", 1, 6)


def test_what_fails_inside_is_over() -> None:
    phase = Phase()
    try:
        with phase.inside("saving"):
            raise OSError
    except OSError:
        assert str(phase) == STARTING


def test_the_background_moves_the_rank_too_and_is_no_part_of_its_phase() -> None:
    phase = Phase()
    with phase.background.inside("writing"):
        assert (str(phase), str(phase.background), phase.all_moves) == (STARTING, "writing", 1)
