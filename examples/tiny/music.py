"""Which classes are music: ensembles, instruments, singing."""

ENSEMBLES = frozenset(["classical music", "rock music", "jazz music", "folk music", "electronic music", "brass band"])
INSTRUMENTS = frozenset(
    """
accordion|acoustic guitar|agogo|angklung|bagpipes|banjo|bass guitar|bassoon|bongo conga|celesta|cello|church organ|
clarinet|claves|cymbal crash|didgeridoo|distorted guitar|double bass|drum loop|electric guitar|electric organ|
electric piano|flute|french horn|glockenspiel|gong|guiro|hammered dulcimer|harmonica|harp|harpsichord|hi hat|jaw harp|
kalimba|khaen mouth organ|kick drum|koto|maracas shaker|marimba|music box|oboe|ocarina|pan flute|piano|
pizzicato strings|rainstick|recorder|ride cymbal|saxophone|shakuhachi|shamisen|sitar|snare drum|steel drum|
string section|synth bass|synth lead|synth pad|tabla|taiko drum|tambourine|theremin|timbales|timpani|tom drum|triangle|
trombone|trumpet|tuba|tubular bells|vibraphone|viola|violin|woodblock|xylophone""".replace("\n", "").split("|")
)
MUSIC = ENSEMBLES | INSTRUMENTS | {"singing"}
