"""The wordings of modifications: templates for each operation in three styles.

Fields: r "the red star", s the same as a subject ("they" for "them"); is, was, has, sits, stays
and remains agree with it; bare "red star(s)" in its number, bare1 "red star", bares "red stars";
v the new value, old the former one, marks "stripes"; n and m the new and the old number, bare_n in
the new number; d a difference, bare_d, are_d, has_d in its number; np an indefinite phrase for
what is new, are_np, has_np, takes in its number; dest "the top left", loc "at the top left"; bg
and obg the new and the old background.
"""

from __future__ import annotations

from typing import Final

IMPERATIVE: Final = "imperative"
DESCRIPTIVE: Final = "descriptive"
WISH: Final = "wish"

Styles = dict[str, tuple[str, ...]]

TEMPLATES: Final[dict[str, Styles]] = {
    "recolour": {
        IMPERATIVE: (
            "make {r} {v}", "change {r} to {v}", "paint {r} {v}", "turn {r} {v}",
            "recolour {r} in {v}", "change the colour of {r} to {v}", "give {r} a {v} colour",
            "make {r} {v} instead of {old}", "make {r} not {old} but {v}", "dye {r} {v}",
        ),
        DESCRIPTIVE: (
            "{s} {is} {v} instead of {old}", "{s} {is} now {v}", "{s} {is} {v}, not {old}",
            "{s} {is} no longer {old} but {v}", "{s} {has} turned {v}", "has {r} in {v}",
            "the colour of {r} is {v} rather than {old}",
        ),
        WISH: (
            "{r} to be {v}", "{r} in {v}", "{r} to be {v} rather than {old}",
            "{r} painted {v}", "{r} in {v} instead of {old}", "{r} to have a {v} colour",
        ),
    },
    "restyle": {
        IMPERATIVE: ("make {r} {v}", "change {r} to be {v}", "turn {r} {v}", "{s} should be {v}"),
        DESCRIPTIVE: ("{s} {is} {v}", "{s} {is} now {v}", "{s} {has} become {v}"),
        WISH: ("{r} to be {v}", "{r} made {v}", "{r} to become {v}"),
    },
    "resize": {
        IMPERATIVE: (
            "make {r} {v}", "change the size of {r} to {v}", "turn {r} {v}",
            "make {r} {v} instead of {old}", "set the size of {r} to {v}", "{s} should be {v}",
        ),
        DESCRIPTIVE: (
            "{s} {is} {v} instead of {old}", "{s} {is} now {v}", "{s} {is} no longer {old}",
            "{s} {is} not {old} but {v}", "{s} {is} {v} in size",
        ),
        WISH: ("{r} to be {v}", "{r} to be {v}, not {old}", "{r} made {v}", "{r} to become {v}"),
    },
    "enlarge": {
        IMPERATIVE: (
            "make {r} bigger", "enlarge {r}", "make {r} larger", "scale up {r}",
            "increase the size of {r}", "blow up {r}",
        ),
        DESCRIPTIVE: (
            "{s} {is} bigger", "{s} {is} larger", "{s} {has} grown", "{s} {is} larger than before",
            "has {r} in a bigger size",
        ),
        WISH: ("{r} to be bigger", "{r} larger", "{r} enlarged", "{r} to grow"),
    },
    "shrink": {
        IMPERATIVE: (
            "make {r} smaller", "shrink {r}", "scale down {r}", "reduce the size of {r}",
            "reduce {r} in size", "make {r} less big",
        ),
        DESCRIPTIVE: (
            "{s} {is} smaller", "{s} {has} shrunk", "{s} {is} smaller than before",
            "{s} {is} less big", "has {r} in a smaller size",
        ),
        WISH: ("{r} to be smaller", "{r} smaller", "{r} shrunk", "{r} to get smaller"),
    },
    "retexture": {
        IMPERATIVE: (
            "make {r} {v}", "change {r} to {v}", "turn {r} {v}", "give {r} a {v} pattern",
            "make {r} {v} instead of {old}", "change the texture of {r} to {v}",
            "make {r} {v}, not {old}", "change the pattern of {r} from {old} to {v}",
        ),
        DESCRIPTIVE: (
            "{s} {is} {v} instead of {old}", "{s} {is} now {v}", "{s} {is} {v}, not {old}",
            "{s} {is} no longer {old} but {v}", "{s} {has} become {v}",
        ),
        WISH: ("{r} to be {v}", "{r} to be {v} rather than {old}", "{r} made {v}",
               "{r} to look {v}"),
    },
    "untexture": {
        IMPERATIVE: (
            "remove the {marks} from {r}", "make {r} no longer {old}", "take the {marks} off {r}",
            "drop the {marks} of {r}", "strip {r} of the {marks}", "leave out the {marks} of {r}",
            "show {r} without {marks}",
        ),
        DESCRIPTIVE: (
            "{s} {is} no longer {old}", "{s} {is} not {old} any more", "{s} {has} no {marks}",
            "{s} {has} lost the {marks}", "has {r} without {marks}",
        ),
        WISH: ("{r} without {marks}", "{r} to have no {marks}", "{r} to be no longer {old}",
               "{r} to lose the {marks}"),
    },
    "reshape": {
        IMPERATIVE: (
            "turn {r} into {np}", "change {r} into {np}", "change the shape of {r} to {v}",
            "make {r} {np}", "transform {r} into {np}", "convert {r} to {np}",
            "let {r} become {np}",
        ),
        DESCRIPTIVE: (
            "{s} {has} become {np}", "{s} {is} now {np}", "{s} {is} {np} instead",
            "{s} {has} turned into {np}", "{s} {is} no longer {old} but {np}",
        ),
        WISH: ("{r} to be {np}", "{r} turned into {np}", "{r} to become {np}",
               "{r} changed to {np}"),
    },
    "replace": {
        IMPERATIVE: (
            "replace {r} with {np}", "swap {r} for {np}", "exchange {r} for {np}",
            "put {np} in place of {r}", "show {np} in place of {r}", "substitute {np} for {r}",
        ),
        DESCRIPTIVE: (
            "{np} {takes} the place of {r}", "{s} {is} replaced with {np}",
            "has {np} where {s} {was}", "where {s} {was} there {are_np} {np}",
            "{np} {has_np} replaced {r}",
        ),
        WISH: ("{np} in place of {r}", "{r} replaced with {np}", "{r} swapped for {np}",
               "{np} where {s} {is}"),
    },
    "recount": {
        IMPERATIVE: (
            "make it {n} {bare_n} instead of {m}", "turn {r} into {n}",
            "show {n} {bare_n} instead of {m}", "set the number of {bares} to {n}",
            "have {n} {bare_n} rather than {m}", "change the count of {bares} from {m} to {n}",
            "draw {n} {bare_n}, not {m}",
        ),
        DESCRIPTIVE: (
            "there {are_n} {n} {bare_n} instead of {m}", "{s} {has} become {n}",
            "has {n} {bare_n}, not {m}", "the number of {bares} is {n} now",
            "there {are_n} now {n} {bare_n}",
        ),
        WISH: ("{n} {bare_n} instead of {m}", "{n} {bare_n}, not {m}",
               "the number of {bares} to be {n}", "{n} {bare_n} rather than {m}"),
    },
    "more": {
        IMPERATIVE: (
            "add {d} more {bare_d} right next to {r}", "increase the number of {bares} by {d}",
            "put {d} more {bare_d} beside {r}", "raise the count of {bares} by {d}",
            "show {d} more of {r}", "give {r} {d} more of the same",
        ),
        DESCRIPTIVE: (
            "there {are_d} {d} more of {r}", "has {d} more of {r}",
            "{d} more {bare_d} {has_d} joined {r}", "the number of {bares} is up by {d}",
            "has {d} {bare_d} more than before",
        ),
        WISH: ("{d} more of {r}", "{d} more {bare_d} beside {r}", "{d} {bare_d} more than now",
               "the number of {bares} to go up by {d}"),
    },
    "fewer": {
        IMPERATIVE: (
            "take away {d} of {r}", "reduce the number of {bares} by {d}", "remove {d} of {r}",
            "show {d} fewer of {r}", "delete {d} of {r}", "lower the count of {bares} by {d}",
        ),
        DESCRIPTIVE: (
            "there {are_d} {d} fewer of {r}", "has {d} fewer of {r}", "{d} of {r} {has_d} gone",
            "the number of {bares} is down by {d}", "{d} of {r} {are_d} missing",
        ),
        WISH: ("{d} fewer of {r}", "{d} of {r} gone", "{d} {bare_d} fewer than now",
               "the number of {bares} to go down by {d}"),
    },
    "move": {
        IMPERATIVE: (
            "move {r} to {dest}", "shift {r} to {dest}", "put {r} {loc} instead",
            "bring {r} over to {dest}", "relocate {r} to {dest}", "place {r} {loc}",
            "drag {r} to {dest}",
        ),
        DESCRIPTIVE: (
            "{s} {is} now {loc}", "{s} {has} moved to {dest}", "{s} {is} {loc} instead",
            "has {r} moved to {dest}", "{s} {sits} {loc} now",
        ),
        WISH: ("{r} to be {loc}", "{r} moved to {dest}", "{r} to go to {dest}",
               "{r} placed {loc}"),
    },
    "add": {
        IMPERATIVE: (
            "add {np}", "put in {np}", "insert {np}", "draw {np} as well", "include {np}",
            "place {np} in the picture", "throw in {np}", "add {np} to the picture",
        ),
        DESCRIPTIVE: (
            "also has {np}", "there {are_np} also {np}", "{np} {has_np} been added",
            "has {np} in addition", "{np} {has_np} appeared", "now shows {np} too",
        ),
        WISH: ("{np} added", "{np} as well", "{np} in addition", "to see {np} too",
               "to have {np} as well"),
    },
    "remove": {
        IMPERATIVE: (
            "remove {r}", "delete {r}", "take away {r}", "get rid of {r}", "erase {r}",
            "leave out {r}", "drop {r}", "no more {bare}", "without {r}",
        ),
        DESCRIPTIVE: (
            "{s} {is} gone", "{s} {is} missing", "there {is} no {bare} any more",
            "no longer has {r}", "does not have {r}", "without {r}", "{s} {has} disappeared",
        ),
        WISH: ("{r} gone", "{r} removed", "{r} to disappear", "no {bare}", "{r} taken out",
               "to lose {r}"),
    },
    "remove_all": {
        IMPERATIVE: (
            "remove all {bares}", "delete every {bare1}", "get rid of all the {bares}",
            "no more {bares}", "take away all {bares}", "erase all the {bares}",
            "without any {bares}",
        ),
        DESCRIPTIVE: (
            "there are no {bares} any more", "all {bares} are gone", "has no {bares}",
            "every {bare1} is gone", "without any {bares}", "does not have any {bares}",
        ),
        WISH: ("no {bares}", "all {bares} gone", "all the {bares} removed",
               "every {bare1} to disappear"),
    },
    "keep_only": {
        IMPERATIVE: (
            "remove everything but {r}", "keep only {r}", "delete everything except {r}",
            "leave nothing but {r}", "clear away all except {r}", "take out all but {r}",
        ),
        DESCRIPTIVE: (
            "only {r} {is} left", "everything except {r} is gone", "has nothing but {r}",
            "just {r} {remains}", "all but {r} is gone",
        ),
        WISH: ("only {r} left", "everything but {r} gone", "nothing but {r}",
               "only {r} to remain"),
    },
    "background": {
        IMPERATIVE: (
            "change the background to {bg}", "make the background {bg}",
            "put everything on a {bg} background", "use a {bg} background",
            "set the backdrop to {bg}", "make the background {bg} instead of {obg}",
            "turn the {obg} background {bg}", "make the background not {obg} but {bg}",
        ),
        DESCRIPTIVE: (
            "has a {bg} background", "the background is {bg} instead of {obg}",
            "everything is on {bg}",
            "the background is {bg}", "the background is no longer {obg} but {bg}",
            "the background has turned {bg}", "has a {bg} backdrop",
        ),
        WISH: ("a {bg} background", "the background to be {bg}", "the background in {bg}",
               "a {bg} background instead of the {obg} one", "the background {bg}, not {obg}"),
    },
}  # fmt: skip
