"""The 527 classes of AudioSet in the three groups of Movie Gen Audio: voice, non-vocal music, general sound (Audio data, tagging).

The names are those of the AudioSet ontology (Google, CC BY 4.0) as they stand in `class_labels_indices.csv`; a class that is not listed
here is a general sound. The paper does not print its grouping. Ours follows the ontology's branches with these exceptions: classes of
vocal music count as voice; bells are sounds of things rather than music; what only describes the recording counts for nothing.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

N_CLASSES = 527

_SPEECH = """Speech; Male speech, man speaking; Female speech, woman speaking; Child speech, kid speaking; Conversation;
Narration, monologue; Babbling; Speech synthesizer; Whispering; Chatter; Hubbub, speech noise, speech babble"""

_SINGING = """Singing; Choir; Yodeling; Chant; Mantra; Male singing; Female singing; Child singing; Synthetic singing; Rapping; Humming;
A capella; Vocal music"""

_OTHER_VOICE = """Shout; Bellow; Whoop; Yell; Battle cry; Children shouting; Screaming; Laughter; Baby laughter; Giggle; Snicker;
Belly laugh; Chuckle, chortle; Crying, sobbing; Baby cry, infant cry; Whimper; Wail, moan; Sigh; Groan; Grunt; Cheering; Crowd;
Children playing"""

_MUSIC = """Music; Musical instrument; Plucked string instrument; Guitar; Electric guitar; Bass guitar; Acoustic guitar;
Steel guitar, slide guitar; Tapping (guitar technique); Strum; Banjo; Sitar; Mandolin; Zither; Ukulele; Keyboard (musical); Piano;
Electric piano; Organ; Electronic organ; Hammond organ; Synthesizer; Sampler; Harpsichord; Percussion; Drum kit; Drum machine; Drum;
Snare drum; Rimshot; Drum roll; Bass drum; Timpani; Tabla; Cymbal; Hi-hat; Wood block; Tambourine; Rattle (instrument); Maraca; Gong;
Tubular bells; Mallet percussion; Marimba, xylophone; Glockenspiel; Vibraphone; Steelpan; Orchestra; Brass instrument; French horn;
Trumpet; Trombone; Bowed string instrument; String section; Violin, fiddle; Pizzicato; Cello; Double bass;
Wind instrument, woodwind instrument; Flute; Saxophone; Clarinet; Harp; Harmonica; Accordion; Bagpipes; Didgeridoo; Shofar; Theremin;
Singing bowl; Scratching (performance technique); Pop music; Hip hop music; Beatboxing; Rock music; Heavy metal; Punk rock; Grunge;
Progressive rock; Rock and roll; Psychedelic rock; Rhythm and blues; Soul music; Reggae; Country; Swing music; Bluegrass; Funk;
Folk music; Middle Eastern music; Jazz; Disco; Classical music; Opera; Electronic music; House music; Techno; Dubstep; Drum and bass;
Electronica; Electronic dance music; Ambient music; Trance music; Music of Latin America; Salsa music; Flamenco; Blues;
Music for children; New-age music; Music of Africa; Afrobeat; Christian music; Gospel music; Music of Asia; Carnatic music;
Music of Bollywood; Ska; Traditional music; Independent music; Song; Background music; Theme music; Jingle (music); Soundtrack music;
Lullaby; Video game music; Christmas music; Dance music; Wedding music; Happy music; Funny music; Sad music; Tender music;
Exciting music; Angry music; Scary music"""

_NOTHING = """Silence; Inside, small room; Inside, large room or hall; Inside, public space; Outside, urban or manmade;
Outside, rural or natural; Reverberation; Echo; Television; Radio; Field recording; Effects unit; Chorus effect; Sidetone; Distortion"""


def key(name: str) -> str:
    """A class name as it is compared: letters and digits only, as copies of the list differ in commas and case."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _keys(names: str) -> frozenset[str]:
    return frozenset(key(n) for n in names.split(";"))


SPEECH, SINGING = _keys(_SPEECH), _keys(_SINGING)
VOICE = SPEECH | SINGING | _keys(_OTHER_VOICE)
MUSIC, NOTHING = _keys(_MUSIC), _keys(_NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Which of a tagger's outputs belong to a group: bool [classes] each."""

    voice: npt.NDArray[np.bool_]
    speech: npt.NDArray[np.bool_]
    singing: npt.NDArray[np.bool_]
    music: npt.NDArray[np.bool_]
    sound: npt.NDArray[np.bool_]


def group(names: Sequence[str]) -> Groups:
    """The groups of classes in the tagger's order. Raises ValueError where a class of voice or music is missing: it is another list."""
    keys = [key(n) for n in names]
    missing = sorted((VOICE | MUSIC) - set(keys))
    if missing:
        raise ValueError(f"AudioSet classes: expected all of voice and music, missing {len(missing)}: {', '.join(missing[:5])}")

    def among(group_: frozenset[str]) -> npt.NDArray[np.bool_]:
        return np.array([k in group_ for k in keys])

    return Groups(
        voice=among(VOICE), speech=among(SPEECH), singing=among(SINGING), music=among(MUSIC), sound=~among(VOICE | MUSIC | NOTHING)
    )


def read_names(path: Path) -> list[str]:
    """The class names in a CSV of AudioSet's layout (index, mid, display_name), by index. Raises ValueError where it is another."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(int(row["index"]), str(row["display_name"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"{path}: expected the columns index, mid and display_name, found {type(e).__name__} {e}") from e
    rows.sort()
    if [i for i, _ in rows] != list(range(N_CLASSES)):
        raise ValueError(f"{path}: expected the classes 0 to {N_CLASSES - 1}, found {len(rows)} rows")
    return [name for _, name in rows]
