"""The 24 prompts of make_logits.py: short and over 1,000 tokens, several scripts, code, chat. All of them are our own words."""

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def chat(*turns):
    roles = ["user", "assistant"]
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return SYSTEM + text + "<|im_start|>assistant\n"


HARBOUR = (
    "The harbour woke before the town did. At four the first lamps were lit along the quay, and by five the boats that had been out "
    "all night came in past the breakwater, low in the water, their engines turned down so that one could hear the gulls. Old Marten "
    "counted them as he had counted them for thirty years: eleven had gone out, eleven must come back. He wrote the numbers into a "
    "ledger whose cover had long ago lost its colour, and beside each number he wrote the weather, the wind, and one word about the "
    "catch. "
)
ORCHARD = (
    "Behind the school lay an orchard that nobody owned any more. The council had planted it after the war, forgot it for a "
    "generation, and remembered it only when somebody proposed to build a car park there. The children knew every tree. There was "
    "the bent one that could be climbed by anyone, the tall one that only Ines had climbed, and the one at the far wall that bore "
    "small yellow plums so sweet that the wasps came from the next valley. "
)
STATIONS = ["Altmark", "Brennhof", "Culver Bridge", "Dorn", "Eastwater", "Fennick", "Garrow", "Hollin Moor", "Ivel", "Jarrow Lane"]


def timetable(lines):
    """A long list whose continuation depends on what stands far above."""
    rows = []
    for i in range(lines):
        start, end = STATIONS[i % 10], STATIONS[(3 * i + 1) % 10]
        rows.append(f"Train {100 + 7 * i} leaves {start} at {5 + i % 17:02d}:{(13 * i) % 60:02d} and stops at {end} on platform {1 + i % 9}.")
    return "\n".join(rows)


PROMPTS = [
    "The",
    "Once upon a time",
    "The capital of France is",
    "Water boils at 100 degrees Celsius because",
    "1, 1, 2, 3, 5, 8, 13,",
    "In 1969, 3 astronauts flew 384400 km to",
    "Il était une fois, dans un petit village au bord de la mer, une",
    "Der schnelle braune Fuchs springt über den faulen Hund und",
    "Быстрая коричневая лиса перепрыгивает через",
    "日本の首都は東京です。フランスの首都は",
    "مرحبا بالعالم، اسمي",
    "नमस्ते, मेरा नाम",
    "αβγδε ζηθικ λμνξο",
    "I love 🍕 and 🍣, but most of all 🍓 because",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "#include <vector>\n#include <algorithm>\n\n// Sorts the values in place, largest first.\nvoid sort_descending(std::vector<int>& values) {\n",
    "SELECT name, COUNT(*) AS orders\nFROM customers\nJOIN orders ON",
    "{\"name\": \"quire\", \"version\": 1, \"tags\": [\"paper\", \"book\"], \"pages\":",
    chat("What is gravity?"),
    chat("Write a haiku about the sea."),
    chat("How many days are in a leap year?", "A leap year has 366 days.", "And how many hours is that?"),
    HARBOUR * 2 + ORCHARD + HARBOUR + "That morning, for the first time,",
    timetable(40) + "\nTrain",
    chat("Read this story and then tell me who counted the boats.\n\n" + (HARBOUR + ORCHARD) * 6 + "\n\nWho counted the boats?"),
]
