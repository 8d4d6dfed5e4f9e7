// A stand-in for SPICE's parser, which needs the models of CoreNLP: every word of a caption becomes an object.
package edu.anu.spice;

import edu.cmu.meteor.aligner.SynonymDictionary;
import edu.cmu.meteor.util.Constants;
import java.net.URL;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;

public class SpiceParser {
    private final SynonymDictionary synonyms;

    public SpiceParser(String database, int threads, Boolean merge) throws Exception {
        String folder = Constants.DEFAULT_SYN_DIR_URL.toString();
        this.synonyms = new SynonymDictionary(
            new URL(folder + "/english.exceptions"),
            new URL(folder + "/english.synsets"),
            new URL(folder + "/english.relations"));
    }

    private void add(SceneGraph graph, String caption) {
        if (caption.contains("unparsable")) {
            throw new IllegalStateException("cannot parse " + caption);
        }
        for (String word : caption.split(" ")) {
            if (!word.isEmpty()) {
                graph.addObject(word);
            }
        }
    }

    public List<SceneGraph> parseCaptions(List<String> captions) {
        List<Integer> ones = new ArrayList<>();
        captions.forEach(caption -> ones.add(1));
        return parseCaptions(captions, ones);
    }

    public List<SceneGraph> parseCaptions(List<String> captions, List<Integer> counts) {
        Iterator<String> caption = captions.iterator();
        List<SceneGraph> graphs = new ArrayList<>();
        for (int count : counts) {
            SceneGraph graph = new SceneGraph(this.synonyms, true);
            for (int k = 0; k < count; k++) {
                add(graph, caption.next());
            }
            graphs.add(graph);
        }
        return graphs;
    }
}
