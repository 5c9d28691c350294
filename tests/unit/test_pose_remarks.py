"""What Align Pose says of a picture and a dance before anything is sampled."""

from steadydancer.pose.align import align
from steadydancer.pose.remarks import HEAD, LEGS, remarks
from support.poses import clip, walker


def said(driving, reference, width=800, height=1000) -> str:
    return " ".join(remarks(driving, reference, align(driving, reference, width, height)))


def test_a_whole_person_who_stays_in_the_picture_is_no_remark():
    assert said(clip(walker(9)), clip(walker(1))) == ""


def test_half_a_body():
    half = clip(walker(1))
    half.scores[..., LEGS] = 0
    assert (
        said(clip(walker(9)), half) == "The picture shows half a body, and the dance has legs: their length is a guess."
    )
    legless = clip(walker(9))
    legless.scores[..., LEGS] = 0
    assert said(legless, half) == ""


def test_turned_away():
    back = walker(1)
    back[..., 0] = 800 - back[..., 0]  # right and left change sides
    reference = clip(back)
    reference.scores[..., HEAD] = 0
    words = said(clip(walker(9)), reference)
    assert "does not show the person's face" in words and "face opposite ways at the beginning" in words


def test_nobody_in_part_of_the_frames():
    driving = clip(walker(9))
    driving.scores[3:5] = 0
    assert said(driving, clip(walker(1))) == "Nobody is seen in 2 of 9 frames of the dance."


def test_the_dancer_leaves_the_picture():
    assert "The dancer leaves the picture in " in said(clip(walker(9, speed=90)), clip(walker(1)))
